"""How a sweep ends: every run that was started is accounted for, and no other sweep disturbs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from omni_rlvr.lock import OWNER, FolderLock
from omni_rlvr.record import append_jsonl, read_json, read_jsonl, write_json
from omni_rlvr.tasks import sweep_summary as sweeping
from omni_rlvr.types import Interrupted, UserError

QUICK = ("stage=sft", "stage.max_steps=1", "stage.batch_size=3")
Command = Callable[..., int]


@pytest.mark.parametrize("key", ["name=a,b", "+experiment=cold_start,sft_labels"])
def test_a_sweep_over_names_or_experiments_counts_what_failed(
    command: Command, runner, capsys: pytest.CaptureFixture, key: str
) -> None:
    assert command("-m", key, *QUICK, "dataset.train_split=train", "trainer.devices=none") == 1
    out, err = capsys.readouterr()
    assert "sweep: 0 finished, 0 skipped, 2 failed\n" in out
    first, second = key.partition("=")[2].split(",")
    named = [line.split(": ")[1] for line in err.splitlines() if line.startswith("failed: ")]
    assert named == [f"{key.partition('=')[0]}={value}" for value in (first, second)]
    (journal,) = runner.root.rglob("sweep.jsonl")
    assert [row["status"] for row in read_jsonl(journal)] == ["failed", "failed"]
    assert all((journal.parent / row["run"] / "run.json").exists() for row in read_jsonl(journal))


def test_a_sweep_over_names_ends_in_one_table_and_goes_on(
    command: Command, runner, capsys: pytest.CaptureFixture
) -> None:
    sweep = ("-m", "name=a,b", *QUICK, "task.evaluate_after.splits=[test]")
    small = ("task.evaluate_after.max_completion_length=8", "task.evaluate_after.num_resamples=50")
    assert command(*sweep, *small) == 0
    (table,) = runner.root.rglob("sweep_runs.csv")
    assert len(table.read_text().splitlines()) == 3
    assert command(*sweep, *small) == 0
    assert "sweep: 0 finished, 2 skipped, 0 failed" in capsys.readouterr().out


def test_runs_without_scores_need_no_table(
    command: Command, runner, capsys: pytest.CaptureFixture
) -> None:
    assert command("-m", "task=preview", "task.split=train", "task.num_clips=1,2") == 0
    assert "sweep: 2 finished, 0 skipped, 0 failed" in capsys.readouterr().out
    assert not list(runner.root.rglob("sweep_runs.csv"))


def test_two_runs_do_not_share_a_folder(
    command: Command, runner, capsys: pytest.CaptureFixture
) -> None:
    assert command("-m", *QUICK, "seed=0,1", "hydra.sweep.subdir=x") == 1
    assert "x holds a finished run of another config" in capsys.readouterr().err
    assert read_json(runner.root / "train" / "sweep" / "x" / "run.json")["config"]["seed"] == 0


HOLDER = """
import sys
from pathlib import Path
from omni_rlvr.lock import OWNER, FolderLock
lock = FolderLock(Path(sys.argv[1]), "")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_sweep_of_the_same_folder_is_refused_and_touches_nothing(
    command: Command, runner
) -> None:
    home = runner.root / "s" / "sweep"
    home.mkdir(parents=True)
    append_jsonl(home / "sweep.jsonl", [{"job": 0, "status": "failed"}])
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        text = str(command("-m", "name=s", *QUICK, "seed=0,1"))
        other.kill()
    assert text.startswith(f"error: {home} is in use by process {other.pid} on ")
    assert text.endswith("with name=NAME or hydra.sweep.dir=DIR")
    assert read_jsonl(home / "sweep.jsonl") == [{"job": 0, "status": "failed"}]
    # the owner is dead now; a run fails, so that this takes no time
    assert command("-m", "name=s", *QUICK, "seed=0,1", "trainer.devices=none") == 1
    assert len(read_jsonl(home / "sweep.jsonl")) == 2


def started(home: Path, *ended: str) -> None:
    """Writes what three runs leave of which the first ones ended so."""
    home.mkdir(exist_ok=True)
    rows = [{"job": i, "overrides": ["a=1", f"seed={i}"], "run": str(i)} for i in range(3)]
    (home / sweeping.STARTED).mkdir()
    for row in rows:
        write_json(home / sweeping.STARTED / f"{row['job']}.json", row)
    ends = [{**row, "status": how} for row, how in zip(rows, ended, strict=False)]
    append_jsonl(home / sweeping.JOURNAL, ends)


@pytest.mark.parametrize(
    ("error", "word", "becomes"),
    [
        (RuntimeError("a worker\nwas killed"), "vanished", UserError),
        (KeyboardInterrupt(), "interrupted", Interrupted),
        (SystemExit(130), "vanished", SystemExit),
        (UserError("no"), "vanished", UserError),
    ],
)
def test_runs_that_left_no_word_are_told_of(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    error: BaseException,
    word: str,
    becomes: type[BaseException],
) -> None:
    started(tmp_path, "finished")
    sweeping.conducted[tmp_path] = sweeping.Conducted(FolderLock(tmp_path, ""), False, False)
    with pytest.raises(becomes) as raised, sweeping.summarised():
        raise error
    if isinstance(error, RuntimeError):
        assert str(raised.value) == "the sweep ended early: RuntimeError: a worker was killed"
    out, err = capsys.readouterr()
    assert out == f"sweep: 1 finished, 0 skipped, 0 failed, 2 {word}\n"
    lines = [line for line in err.splitlines() if line.startswith(f"{word}: seed=")]
    assert len(lines) == 2
    assert [row["status"] for row in read_jsonl(tmp_path / "sweep.jsonl")] == [
        "finished", word, word,
    ]  # fmt: skip


def test_a_sweep_that_lost_a_run_ends_with_1(tmp_path: Path) -> None:
    started(tmp_path, "finished", "skipped")
    sweeping.conducted[tmp_path] = sweeping.Conducted(FolderLock(tmp_path, ""), False, False)
    with pytest.raises(SystemExit) as end, sweeping.summarised():
        pass
    assert end.value.code == 1
    assert not (tmp_path / OWNER).exists()  # another sweep may have the folder


def test_a_run_is_known_by_its_own_folder_where_the_journal_lacks_it(tmp_path: Path) -> None:
    """Of two machines that add a line to a file at a time, one may lose its line."""
    started(tmp_path, "finished")
    for number, status in ((1, "finished"), (2, "running")):
        (tmp_path / str(number)).mkdir()
        write_json(tmp_path / str(number) / "run.json", {"config": {}, "status": status})
    jobs = sweeping.account(tmp_path, stopped=False, detached=False)
    assert [job["status"] for job in jobs] == ["finished", "finished", "vanished"]
    assert [row["status"] for row in read_jsonl(tmp_path / "sweep.jsonl")][1:] == [
        "finished", "vanished",
    ]  # fmt: skip


def test_of_a_job_that_was_done_again_the_last_word_counts(tmp_path: Path) -> None:
    started(tmp_path, "interrupted", "finished", "finished")
    again = {**read_jsonl(tmp_path / "sweep.jsonl")[0], "status": "finished"}
    append_jsonl(tmp_path / "sweep.jsonl", [again])
    jobs = sweeping.account(tmp_path, stopped=False, detached=False)
    assert [job["status"] for job in jobs] == ["finished"] * 3


def test_jobs_that_go_on_without_the_sweep_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    started(tmp_path, "finished")
    (tmp_path / ".submitit").mkdir()
    (tmp_path / "1").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "1")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as job:  # fmt: skip
        assert job.stdout is not None
        assert job.stdout.readline() == "held\n"
        sweeping.conducted[tmp_path] = sweeping.Conducted(FolderLock(tmp_path, ""), True, False)
        with pytest.raises(Interrupted), sweeping.summarised():
            raise KeyboardInterrupt
        job.kill()
    out, err = capsys.readouterr()
    assert out == "sweep: 1 finished, 0 skipped, 0 failed, 1 interrupted, 1 running\n"
    assert f"running: seed=1: its job goes on (process {job.pid} on " in err
    assert f"jobs that were submitted go on or wait for their turn; {tmp_path}/.submitit" in err


@pytest.mark.parametrize(
    ("sweeper", "task", "wrong"),
    [
        ("{direction: maximize}", "{name: train, evaluate_after: {splits: []}}", "evaluate_after"),
        ("{direction: maximize}", "{name: evaluate, splits: [test]}", "evaluate_after"),
        ("{direction: minimize}", "{name: train, evaluate_after: {splits: [a]}}", "direction="),
        ("{direction: maximize}", "{name: train, evaluate_after: {splits: [a]}}", None),
        ("{}", "{name: train, evaluate_after: {splits: []}}", None),
    ],
)
def test_a_search_without_a_score_is_refused_first(
    sweeper: str, task: str, wrong: str | None
) -> None:
    config = OmegaConf.create(f"{{hydra: {{sweeper: {sweeper}}}, task: {task}}}")
    if wrong is None:
        sweeping.check_search(config)
    else:
        with pytest.raises(UserError, match=wrong):
            sweeping.check_search(config)
