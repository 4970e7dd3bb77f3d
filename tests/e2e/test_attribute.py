"""task=attribute from a config to its files: what they hold, and what every option changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from omni_rlvr.models.composed.model import OmniModel
from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.types import UserError

ATTRIBUTE = (
    "task=attribute",
    "task.splits=[train]",
    "task.max_completion_length=8",
    "task.num_resamples=20",
    "task.lead=empty_think",
    "model.instruction='in <answer> </answer> tags'",
)
COLUMNS = {"clip", "label", "predicted", "has_audio", "has_video", "v_none", "v_audio", "v_video",
           "v_both", "phi_audio", "phi_video", "interaction", "phi_audio_predicted",
           "dataset", "split", "absent", "value", "lead"}  # fmt: skip


@pytest.fixture(scope="module")
def plain(make_runner) -> tuple[Path, pd.DataFrame, dict]:
    """A run with the cheap lead, else the defaults: its folder, table and report."""
    return seen(make_runner(), *ATTRIBUTE)


def seen(runner, *overrides: str) -> tuple[Path, pd.DataFrame, dict]:
    folder = runner(*overrides) / "train"
    return (
        folder,
        pd.read_parquet(folder / "attribution.parquet"),
        read_json(folder / "attribution.json"),
    )


def test_files_hold_what_they_should(plain) -> None:
    folder, table, report = plain
    assert set(table.columns) >= COLUMNS
    assert len(table) == report["all"]["num_clips"] == report["all"]["num_whole"] == 12
    gained = table.v_both - table.v_none
    assert (table.phi_audio + table.phi_video - gained).abs().max() < 1e-6
    distributions = pd.read_parquet(folder / "distributions.parquet")
    assert len(distributions) == 12 * 4
    assert distributions[report["labels"]].sum(axis=1).tolist() == pytest.approx([1.0] * 48)
    swaps = pd.read_parquet(folder / "swap.parquet")
    assert len(swaps) == report["swap"]["num_swaps"] == 12
    assert (swaps.label_video != swaps.label_audio).all()
    assert len(pd.read_parquet(folder / "faithfulness.parquet")) == 12
    assert report["faithfulness"]["num_clips"] == 12
    assert report["method"]["absent"] == "drop"
    assert report["method"]["lead"] == "empty_think"
    assert (folder / "attribution.png").read_bytes().startswith(b"\x89PNG")
    assert read_json(folder.parent / "run.json")["status"] == "finished"


@pytest.mark.parametrize(
    "flip",
    ["task.absent=silence_grey", "task.absent=other_clip", "task.value=prob", "task.lead=direct",
     "task.text=true"],
)  # fmt: skip
def test_an_option_changes_values_and_is_stated(runner, plain, flip: str) -> None:
    _, table, report = seen(runner, *ATTRIBUTE, flip)
    both = table.merge(plain[1], on="clip", suffixes=("", "_plain"))
    assert (both.phi_audio - both.phi_audio_plain).abs().max() > 1e-4
    assert report["method"] != plain[2]["method"]


def test_own_reasoning_is_the_default_everywhere(runner) -> None:
    cfg = runner.compose("task=attribute", "callbacks=probe")
    assert cfg.task.lead == cfg.callbacks.probe.lead == "own_reasoning"
    assert runner.compose("task=serve").task.lead == "own_reasoning"
    own = [text for text in ATTRIBUTE if not text.startswith("task.lead")]
    _, _, report = seen(runner, *own, "task.max_clips=2")
    assert report["method"]["lead"] == "own_reasoning"
    assert report["method"]["labels are scored"] == (
        "after the reasoning that the model generates for that subset of modalities"
    )


def test_the_cheap_lead_says_what_it_is(plain) -> None:
    method = plain[2]["method"]
    assert method["labels are scored"] == (
        "after an empty think block, not after the model's own reasoning"
    )


def test_own_reasoning_reasons_about_every_subset(runner, plain, monkeypatch) -> None:
    rows = []
    sample = SharedPrefix.sample

    def counted(self, policy, prompts, *how):
        rows.append(len(prompts))
        return sample(self, policy, prompts, *how)

    monkeypatch.setattr(SharedPrefix, "sample", counted)
    folder, _, report = seen(runner, *ATTRIBUTE, "task.lead=own_reasoning")
    # without media all ask the same; one modality; both, and swapped sounds
    assert sorted(rows) == [1, 12, 12, 24]
    assert report["faithfulness"]["num_clips"] == 12
    whole = pd.read_parquet(folder / "faithfulness.parquet").set_index("clip").completion
    same = pd.read_parquet(plain[0] / "faithfulness.parquet").set_index("clip").completion
    assert whole.sort_index().tolist() == same.sort_index().tolist()  # greedy, of the whole clip


def test_reasoning_is_of_as_many_clips_as_asked(runner, plain) -> None:
    folder, _, report = seen(runner, *ATTRIBUTE, "task.num_reasoned=4", "task.batch_size=3")
    some = pd.read_parquet(folder / "faithfulness.parquet")
    assert len(some) == report["faithfulness"]["num_clips"] == 4
    every = pd.read_parquet(plain[0] / "faithfulness.parquet").set_index("clip").completion
    assert every[some["clip"]].tolist() == some.completion.tolist()


def test_swaps_and_reasoning_can_be_left_out(runner) -> None:
    folder, _, report = seen(runner, *ATTRIBUTE, "task.swap=false", "task.num_reasoned=0")
    assert report["swap"] is report["faithfulness"] is None
    assert {p.name for p in folder.glob("*.parquet")} == {
        "attribution.parquet",
        "distributions.parquet",
    }


def test_answers_that_differ_from_the_generated_ones_are_warned_of(runner, caplog) -> None:
    _, _, report = seen(runner, *ATTRIBUTE, "task.max_clips=3")  # random weights answer nothing
    assert report["faithfulness"]["same_answer"] == 0
    assert "is the generated answer for only 0 % of the clips" in caplog.text
    assert "task.lead=own_reasoning measures that" in caplog.text


def test_batches_do_not_change_values(runner, plain) -> None:
    _, table, _ = seen(runner, *ATTRIBUTE, "task.batch_size=5", "task.max_clips=7")
    assert len(table) == 7
    both = table.merge(plain[1], on="clip", suffixes=("", "_plain"))
    assert (both.phi_audio - both.phi_audio_plain).abs().max() < 1e-3


def test_clips_without_sound_and_with_html_in_their_names(runner, clips, tmp_path) -> None:
    rows = json.loads((clips / "test.json").read_text())
    rows[0]["id"] = "<script>alert(1)</script>"
    rows.append({**rows[1], "video": "silent.mp4"})
    (tmp_path / "mixed.json").write_text(json.dumps(rows))
    more = [f"dataset.annotations.train={tmp_path}/mixed.json", f"dataset.root={clips}"]
    _, table, report = seen(runner, *ATTRIBUTE, *more)
    assert "<script>alert(1)</script>" in table["clip"].tolist()
    silent = table[~table.has_audio]
    assert silent["clip"].tolist() == ["silent.mp4"]
    assert silent.phi_audio.tolist() == [0.0]
    assert (report["all"]["num_clips"], report["all"]["num_whole"]) == (6, 5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["modality=video"], "modality=video: task=attribute compares picture and sound"),
        (["dataset.labels=[]", "dataset.splits.train.labels=null"], r"dataset\.labels=\[\]"),
        (
            ["dataset.labels=[joy,rage]", "dataset.splits.train.labels=null"],
            "'happy' is not in dataset.labels",
        ),
        (["lexicon.vocal=[face]"], "face stands in visual and in vocal"),
    ],
)
def test_what_cannot_be_measured_is_refused(runner, overrides, message) -> None:
    with pytest.raises(UserError, match=message) as error:
        runner.build(*ATTRIBUTE, *overrides)
    assert "\n" not in str(error.value)


def test_clips_are_asked_as_in_an_evaluation_whatever_positions_prompts_have(
    runner, monkeypatch, tiny_policy, tmp_path
) -> None:
    tiny_policy.save(tmp_path / "sharp")  # larger weights: what it says follows from its prompt
    prompts_of, sharp = OmniModel.prompts, f"model.path={tmp_path}/sharp"

    def spread(self, batch, features):
        counted = prompts_of(self, batch, features)
        return replace(counted, positions=counted.positions * 2)

    asked = (
        *ATTRIBUTE,
        sharp,
        "task.num_chosen=12",
        "task.num_generations=0",
        "task.num_reasoned=-1",
    )
    same = (
        "task=evaluate",
        "task.splits=[train]",
        "task.max_completion_length=8",
        ATTRIBUTE[-1],
        sharp,
    )
    counted = runner(*asked)
    monkeypatch.setattr(OmniModel, "prompts", spread)
    said = {
        row["id"]: row["completion"]
        for row in read_jsonl(runner(*same) / "train" / "predictions.jsonl")
    }
    folder = runner(*asked) / "train"
    chosen = {row["id"]: row["completion"] for row in read_jsonl(folder / "chosen.jsonl")}
    assert chosen == {clip: said[clip] for clip in chosen}
    assert len(chosen) > 3
    reasoned = pd.read_parquet(folder / "faithfulness.parquet")
    assert dict(zip(reasoned["clip"], reasoned["completion"], strict=True)) == said
    before = read_jsonl(counted / "train" / "chosen.jsonl")
    assert any(row["completion"] != said[row["id"]] for row in before)
