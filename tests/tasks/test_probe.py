"""The probe: its numbers by hand, its lines in metrics.jsonl, and a run that it does not change."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from omni_rlvr.record import read_jsonl
from omni_rlvr.tasks.attribute.probe import game_metrics, spread
from omni_rlvr.types import UserError

_spec = importlib.util.spec_from_file_location(
    "e2e_fixtures", Path(__file__).parents[1] / "e2e" / "conftest.py"
)
assert _spec is not None
assert _spec.loader is not None
e2e = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(e2e)
clips, checkpoint, common = e2e.clips, e2e.checkpoint, e2e.common
make_runner, runner = e2e.make_runner, e2e.runner

SFT = (*e2e.Runner.sft, "stage.max_steps=3")
GRPO = e2e.Runner.grpo
PROBE = (
    "callbacks=probe",
    "callbacks.probe.num_clips=3",
    "callbacks.probe.every_n_steps=3",
    "callbacks.probe.max_completion_length=6",
    "callbacks.probe.lead=empty_think",
)
NAMES = {f"modality/{name}" for name in (
    "phi_audio", "phi_video", "interaction", "acc_none", "acc_audio", "acc_video", "acc_both",
    "probe_s",
)}  # fmt: skip


@pytest.fixture(scope="module")
def probed(make_runner) -> Path:
    return make_runner()(*SFT, *PROBE)


def test_metrics_by_hand():
    # one clip, gold 0: p = .5, .5, .8, .8 under none, audio, video, both
    p = torch.tensor([[[0.5, 0.5], [0.5, 0.5], [0.8, 0.2], [0.8, 0.2]]]).double().log()
    metrics = game_metrics(p, torch.tensor([0]))
    assert metrics["phi_video"] == pytest.approx(math.log(1.6))
    assert metrics["phi_audio"] == metrics["interaction"] == pytest.approx(0)
    assert [metrics[f"acc_{s}"] for s in ("none", "audio", "video", "both")] == [1, 1, 1, 1]
    assert game_metrics(p, torch.tensor([1]))["acc_both"] == 0


def test_clips_lie_evenly_over_a_sorted_list():
    assert spread(list(range(7)), 3)[:3] == [0, 2, 4]  # type: ignore[arg-type]
    assert sorted(spread(list(range(7)), 3)) == list(range(7))  # type: ignore[type-var]
    assert spread([1, 2], 5) == [1, 2]  # type: ignore[list-item]


def test_the_first_step_and_every_nth_are_probed(probed: Path) -> None:
    rows = read_jsonl(probed / "metrics.jsonl")
    seen = [{name for name in row if name.startswith("modality/")} for row in rows]
    assert seen[0] >= NAMES
    assert seen[1] == set()
    assert seen[2] >= NAMES
    assert rows[0]["modality/phi_audio"] != rows[2]["modality/phi_audio"]  # the policy moved
    assert rows[0]["modality/probe_s"] > 0


def test_a_probe_changes_nothing_of_the_run(runner, probed: Path) -> None:
    plain = runner(*SFT)
    one, other = (read_jsonl(run / "metrics.jsonl") for run in (plain, probed))
    for name in ("loss", "grad_norm", "num_tokens"):
        assert [row[name] for row in one] == [row[name] for row in other]
    weights = [run / "checkpoint" / "model.safetensors" for run in (plain, probed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_probe_changes_no_sample(runner) -> None:
    plain, other = runner(*GRPO), runner(*GRPO, *PROBE)
    rows = [read_jsonl(run / "completions.jsonl") for run in (plain, other)]
    assert len(rows[0]) == 12
    assert rows[0] == rows[1]
    assert "modality/phi_video" in read_jsonl(other / "metrics.jsonl")[0]


@pytest.mark.parametrize(
    "flip",
    ["num_clips=5", "lead=own_reasoning", "lexicon=null", "reader=${dataset.splits.test}"],
)
def test_an_option_of_the_probe_does_something(runner, probed, flip: str) -> None:
    instruction = "model.instruction='in <answer> </answer> tags'"
    more = (instruction,) if flip.startswith("lead") else ()
    folder = runner(*SFT, "stage.max_steps=1", *PROBE, *more, f"callbacks.probe.{flip}")
    row = read_jsonl(folder / "metrics.jsonl")[0]
    before = read_jsonl(probed / "metrics.jsonl")[0]
    if flip.startswith("lexicon"):
        assert "modality/agreement" not in row
        assert row["modality/phi_audio"] == pytest.approx(before["modality/phi_audio"])
    else:
        assert row["modality/phi_audio"] != pytest.approx(before["modality/phi_audio"], abs=1e-6)


@pytest.mark.parametrize("why", ["callbacks.probe.labels=[joy,rage]", "modality=audio"])
def test_with_nothing_to_probe_training_goes_on_and_says_so(runner, caplog, why: str) -> None:
    folder = runner(*SFT, "stage.max_steps=1", *PROBE, why)
    assert "modality probe: off, since no clip has picture, sound" in caplog.text
    assert not [n for n in read_jsonl(folder / "metrics.jsonl")[0] if n.startswith("modality/")]


@pytest.mark.parametrize("flip", ["every_n_steps=0", "num_clips=0", "lead=none"])
def test_a_value_out_of_range_is_named(runner, flip: str) -> None:
    key = f"callbacks.probe.{flip.split('=')[0]}="
    with pytest.raises(UserError, match=key):
        runner.build(*SFT, *PROBE, f"callbacks.probe.{flip}")
