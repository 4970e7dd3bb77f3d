"""Checkpoints, runs and sweeps of an earlier version: loaded, resumed, known again.

The files are those of tests/fixtures/previous, whose README says how they were made. They name
classes and functions by the places that these had then.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from omni_rlvr.record import read_json, read_jsonl

PREVIOUS = Path(__file__).parents[1] / "fixtures" / "previous"
CHECKSUMMED = ("base", "checkpoint", "checkpoints", "features")
"""Folders whose files are copied as they are."""


@pytest.fixture
def previous(tmp_path: Path, clips: Path) -> Path:
    """A copy of the earlier version's files that names the folder it lies in, with clips."""
    root = tmp_path / "previous"
    shutil.copytree(PREVIOUS, root, symlinks=True)
    before = read_json(root / "commands.json")["root"]
    for path in sorted(root.rglob("*.*")):
        if path.is_file() and not {*CHECKSUMMED} & {*path.relative_to(root).parts}:
            path.write_text(path.read_text().replace(before, str(root)))
    (root / "clips").symlink_to(clips / "clips")
    return root


@pytest.fixture
def again(previous: Path, runner, command) -> Callable[..., None]:
    """Gives one of the earlier version's commands, all but a sweep into ``outputs/NAME/run``."""
    commands = read_json(previous / "commands.json")
    runner.overrides = commands["common"]

    def give(name: str, *more: str) -> None:
        place = [] if name == "sweep" else [f"hydra.run.dir={previous}/outputs/{name}/run"]
        assert command(*commands[name], *place, *more) == 0

    return give


def test_a_checkpoint_answers_as_it_did(previous: Path, again) -> None:
    again("predict")
    (now,) = read_jsonl(previous / "outputs" / "predict" / "run" / "predictions.jsonl")
    (then,) = read_jsonl(previous / "expected" / "predictions.jsonl")
    assert now.pop("probabilities") == pytest.approx(then.pop("probabilities"), abs=1e-4)
    assert now.pop("list_probability") == pytest.approx(then.pop("list_probability"), abs=1e-4)
    for row in (now, then):
        assert [note.pop("text") != "" for note in row["notes"]] == [True], "words may change"
    assert now == then


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_a_stopped_run_is_resumed(previous: Path, again, name: str) -> None:
    run = previous / "outputs" / name / "run"
    before = read_jsonl(run / "metrics.jsonl")
    assert read_json(run / "run.json")["status"] == "interrupted"
    again(name, f"resume={run}")
    assert read_json(run / "run.json")["status"] == "finished"
    after = read_jsonl(run / "metrics.jsonl")
    assert after[:2] == before
    assert [row["step"] for row in after] == [1, 2, 3, 4]
    assert (run / "checkpoint").resolve().name == "step_000004"
    if name == "sft":
        expected = read_jsonl(previous / "expected" / "sft_metrics.jsonl")
        for key in ("loss", "grad_norm", "learning_rate"):
            assert [r[key] for r in after] == pytest.approx([r[key] for r in expected], rel=1e-3)
    else:
        expected = read_jsonl(previous / "expected" / "grpo_completions.jsonl")
        texts = [
            [(row["step"], row["id"], row["completion"], row["reward"]) for row in rows]
            for rows in (read_jsonl(run / "completions.jsonl"), expected)
        ]
        assert texts[0] == texts[1]


def test_runs_of_a_sweep_are_skipped(previous: Path, again, capsys) -> None:
    home = previous / "outputs" / "sweep" / "sweep"
    runs = sorted(path.name for path in home.iterdir() if path.is_dir())
    records = {name: (home / name / "run.json").read_bytes() for name in runs}
    again("sweep")
    assert "sweep: 0 finished, 2 skipped, 0 failed" in capsys.readouterr().out
    journal = read_jsonl(home / "sweep.jsonl")
    assert sorted(row["run"] for row in journal) == runs
    assert {name: (home / name / "run.json").read_bytes() for name in runs} == records


def test_a_report_of_runs_is_the_same(previous: Path, again) -> None:
    again("report")
    now, then = (
        pd.read_csv(folder / "runs.csv", index_col="run").sort_index()
        for folder in (previous / "outputs" / "report" / "run", previous / "expected")
    )
    evaluated, one, other = now.pop("rollout._target_")
    now = now[[name for name in now if "weighted_f1" not in name and "/war/" not in name]]  # newer
    now = now[[name for name in now if "/uar/" not in name]]
    then = then.drop(columns="rollout._target_")  # the present names may stand there
    assert evaluated == one != other
    pd.testing.assert_frame_equal(now, then)
