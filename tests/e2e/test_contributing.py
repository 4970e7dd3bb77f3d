"""CONTRIBUTING shows a new task and a new stage as diffs: they apply, and the command runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from omni_rlvr.data.synthetic.emotions import LABELS
from omni_rlvr.record import read_json, read_jsonl

ROOT = Path(__file__).parents[2]
MAX_LINES = 60
"""Lines that are added; a longer example would not be read."""


def shown_diff(heading: str) -> str:
    """The diff that follows a heading, without its indent."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    _, found, below = text.partition(f"**{heading}**")
    assert found, f"CONTRIBUTING.md has no {heading!r}"
    block = re.search(r"```diff\n(.*?)```", below, re.DOTALL)
    assert block is not None
    return block[1]


@pytest.fixture
def patched(runner, tmp_path: Path):
    """Applies a diff to a copy of the package and its options, which the command then runs."""

    def apply(diff: str) -> None:
        for folder in ("src", "conf"):
            shutil.copytree(ROOT / folder, tmp_path / "tree" / folder, symlinks=True)
        done = subprocess.run(
            ["git", "apply", "--recount", "-"],
            input=diff,
            text=True,
            cwd=tmp_path / "tree",
            env={"GIT_CEILING_DIRECTORIES": str(tmp_path), "PATH": "/usr/bin:/bin"},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        runner.packages.append(tmp_path / "tree" / "src")

    return apply


def places(diff: str) -> list[str]:
    """The files that a diff touches."""
    return re.findall(r"^\+\+\+ b/(\S+)$", diff, re.MULTILINE)


@pytest.mark.parametrize("what", ["task", "stage"])
def test_an_example_is_a_file_a_dataclass_a_row_and_an_option_file(what: str) -> None:
    diff = shown_diff(f"A new {what}")
    new, *rest = places(diff)
    assert re.fullmatch(rf"src/omni_rlvr/{what}s/(\w+)\.py", new)
    config = {"task": "tasks", "stage": "stage"}[what]
    assert rest == [
        f"src/omni_rlvr/config/{config}.py",
        f"src/omni_rlvr/{what}s/table.py",
        f"conf/{what}/{Path(new).stem}.yaml",
    ]
    lines = [line for line in diff.splitlines() if line.startswith("+") and line[1:4] != "++ "]
    assert len(lines) < MAX_LINES
    assert not re.search(r"^-(?!--)", diff, re.MULTILINE)  # nothing that is there has to go


def test_the_new_task_runs(runner, patched) -> None:
    patched(shown_diff("A new task"))
    done = runner.command("task=labels", "task.splits=[test]")
    assert done.returncode == 0, done.stderr
    (file,) = runner.root.glob("labels/*/labels.json")
    answers = (LABELS[i % len(LABELS)] for i in range(5))  # as the fixture ``clips`` makes them
    assert read_json(file) == {"test": dict(Counter(answers))}
    assert read_json(file.with_name("run.json"))["status"] == "finished"
    done = runner.command("task=labels", "task.spits=[test]")
    assert done.returncode == 1
    assert "task.spits: there is no such key; did you mean task.splits?" in done.stderr


def test_the_new_stage_trains(runner, patched) -> None:
    patched(shown_diff("A new stage"))
    losses = {}
    for gamma in (0, 2):
        done = runner.command(
            "stage=focal",
            f"stage.gamma={gamma}",
            f"name=gamma_{gamma}",
            "stage.max_steps=2",
            "stage.batch_size=3",
        )
        assert done.returncode == 0, done.stderr
        (file,) = runner.root.glob(f"gamma_{gamma}/[0-9]*/metrics.jsonl")
        losses[gamma] = [row["loss"] for row in read_jsonl(file)]
    plain = runner(*runner.sft, "name=plain")
    expected = [row["loss"] for row in read_jsonl(plain / "metrics.jsonl")]
    assert losses[0] == pytest.approx(expected, rel=1e-5)  # (1 - p)^0 = 1: the plain loss
    assert all(0 < two < zero for zero, two in zip(losses[0], losses[2], strict=True))
