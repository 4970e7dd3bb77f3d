"""Sweeps: a table at the end, finished runs skipped, failed ones alone again, one cold start."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import time
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from sweep_packages import SWEEP_PACKAGES, needs_plugins

from omni_rlvr import stopping
from omni_rlvr.cli import conf_dir
from omni_rlvr.record import read_json, read_jsonl, write_json
from omni_rlvr.tasks import start as starting
from omni_rlvr.tasks import sweep as sweeping
from omni_rlvr.tasks import train as training
from omni_rlvr.tasks.build import Ready, build
from omni_rlvr.tasks.start import resolved
from omni_rlvr.training.module import RLVRModule
from omni_rlvr.types import Interrupted, UserError

ONE = (
    "stage=sft", "stage.max_steps=1", "stage.batch_size=3", "task.evaluate_after.splits=[test]",
    "task.evaluate_after.max_completion_length=8", "task.evaluate_after.num_resamples=50",
)  # fmt: skip


@pytest.fixture
def job(runner):
    """Does one run of a sweep in this process."""

    def do(name: str, *overrides: str) -> float | None:
        folder = runner.root / "sweep" / name
        folder.mkdir(parents=True, exist_ok=True)  # as Hydra does
        cfg = runner.compose(*ONE, *overrides)

        def built(where: Path, resume: str | None):
            cfg.resume = resume
            return build(cfg, where, None)

        with hydra():
            place = sweeping.SweepJob(0, folder.parent, folder, overrides)
            return sweeping.run_job(place, lambda: resolved(cfg), built)

    return do


def hydra():
    """Hydra, initialised as within the command: a start is composed there."""
    return initialize_config_dir(conf_dir(), version_base="1.3")


def journal(runner) -> list[dict]:
    return read_jsonl(runner.root / "sweep" / "sweep.jsonl")


def test_a_run_trains_evaluates_and_returns_its_score(job, runner) -> None:
    value = job("a", "seed=1")
    folder = runner.root / "sweep" / "a"
    assert value == read_json(folder / "test" / "metrics.json")["war"]
    assert len(read_jsonl(folder / "test" / "predictions.jsonl")) == 5
    assert (folder / "checkpoint" / "model.safetensors").exists()
    assert read_json(folder / "run.json")["status"] == "finished"
    assert [row["status"] for row in journal(runner)] == ["finished"]


def test_a_finished_run_is_known_by_its_config_whatever_its_folder(job, runner) -> None:
    first = job("a", "seed=1")
    before = (runner.root / "sweep" / "a" / "run.json").read_bytes()
    assert job("b", "seed=1") == first
    assert job("c", "seed=2") is not None
    assert [(r["run"], r["status"]) for r in journal(runner)] == [
        ("a", "finished"), ("a", "skipped"), ("c", "finished"),
    ]  # fmt: skip
    assert (runner.root / "sweep" / "a" / "run.json").read_bytes() == before


@pytest.mark.parametrize("when", ["building", "running"])
def test_a_failed_run_is_written_down_and_done_again(
    job, runner, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def fail(*_, **__):
        raise RuntimeError("no luck")

    with pytest.MonkeyPatch.context() as patch:
        if when == "building":
            patch.setattr("omni_rlvr.tasks.train.make", fail)
        else:
            patch.setattr("omni_rlvr.tasks.train.score_splits", fail)
        assert job("a", "seed=1") is None
    folder = runner.root / "sweep" / "a"
    record = read_json(folder / "run.json")
    assert record["status"] == "failed"
    assert record["error"] == "RuntimeError: no luck"
    assert journal(runner)[0]["error"] == "RuntimeError: no luck"
    assert job("a", "seed=1") is not None
    assert "error" not in read_json(folder / "run.json")
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [1]


def test_an_error_of_the_user_is_in_the_journal_and_a_stop_ends_the_sweep(job, runner) -> None:
    assert job("a", "optimizer.lr=-1") is None
    assert journal(runner)[0]["error"].startswith("optimizer.lr=-1 is out of range")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ready, "run", lambda ready: (_ for _ in ()).throw(Interrupted("stop")))
        with pytest.raises(Interrupted):
            job("b", "seed=2")
    assert journal(runner)[1]["status"] == "interrupted"


LONG = (*ONE, "stage.max_steps=4", "stage.save_steps=1")


@pytest.mark.parametrize("how", ["interrupted", "killed", "failed", "changed"])
def test_a_stopped_run_goes_on_where_it_stopped(
    job, runner, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    whole = runner(*LONG, "seed=1")
    folder = runner.root / "sweep" / "a"
    trained, train_step = [], RLVRModule.training_step

    def step(module, batch, batch_idx):
        if how != "done" and module.step == 2:
            raise KeyboardInterrupt if how == "interrupted" else RuntimeError("no luck")
        trained.append(module.step)
        return train_step(module, batch, batch_idx)

    monkeypatch.setattr(RLVRModule, "training_step", step)
    if how == "interrupted":
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            job("a", *LONG, "seed=1")
        assert journal(runner)[-1]["status"] == "interrupted"
    else:
        job("a", *LONG, "seed=1")
    if how in ("killed", "changed"):  # a kill leaves no word of it
        write_json(folder / "run.json", read_json(folder / "run.json") | {"status": "running"})
    expected = how in ("interrupted", "killed")
    again = ["task.evaluate_after.num_resamples=7"] if how == "changed" else []
    how = "done"
    assert job("a", *LONG, "seed=1", *again) is not None
    goes_on = trained == [0, 1, 2, 3]
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [1, 2, 3, 4]
    weights = [run / "checkpoint" / "model.safetensors" for run in (whole, folder)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert goes_on == expected


def test_a_run_saves_before_submitit_submits_its_job_again(
    job, runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submitit's own handler ends the process there and then, in the middle of a step."""
    train_step, resubmitted = RLVRModule.training_step, []

    def step(module, batch, batch_idx):
        if module.step == 1 and not resubmitted:
            os.kill(os.getpid(), signal.SIGUSR2)
        return train_step(module, batch, batch_idx)

    def submit_again(number: int, frame: object) -> None:
        resubmitted.append(read_json(runner.root / "sweep" / "a" / "run.json")["status"])
        raise SystemExit(255)

    monkeypatch.setattr(RLVRModule, "training_step", step)
    before = signal.signal(signal.SIGUSR2, submit_again)
    long = [text.replace("save_steps=1", "save_steps=100") for text in LONG]
    try:
        with (
            pytest.raises(SystemExit),
            stopping.listening(),
            sweeping.saved_before_submitit_acts(),
        ):
            job("a", *long, "seed=1")
        assert signal.getsignal(signal.SIGUSR2) is submit_again
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert resubmitted == ["interrupted"]
    assert job("a", *long, "seed=1") is not None
    steps = read_jsonl(runner.root / "sweep" / "a" / "metrics.jsonl")
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert [row["status"] for row in journal(runner)] == ["interrupted", "finished"]


@pytest.fixture
def start(runner, clips: Path) -> list[str]:
    """Overrides: begin from a cold start of three steps."""
    small = [o for o in runner.overrides if not o.startswith("dataset.annotations.test")]
    over = ["+experiment=cold_start", *small, "dataset.train_split=train", *ONE[:3]]
    quoted = ",".join(f"'{text}'" for text in over if not text.startswith("task"))
    return [f"task.start_from.overrides=[{quoted}]", "model.path=${tiny_base:}"]


def test_runs_share_one_start(job, runner, start, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    train = training.run
    monkeypatch.setattr(
        training, "run", lambda parts: (trained.append(parts.place.run_dir), train(parts))
    )
    for seed in (1, 2):
        assert job(f"s{seed}", *start, f"seed={seed}") is not None
    (shared,) = (runner.root / "cold_start" / "shared").iterdir()
    assert trained == [shared, runner.root / "sweep" / "s1", runner.root / "sweep" / "s2"]
    config = read_json(runner.root / "sweep" / "s1" / "run.json")["config"]
    assert config["model"]["path"] == str(shared / "checkpoint")
    assert job("s3", *start, "seed=1") is not None  # known, with its start
    assert journal(runner)[-1]["status"] == "skipped"


def made_earlier(folder: Path, status: str = "finished") -> None:
    """Make a run one of a version that had not all of today's options."""
    record = read_json(folder / "run.json")
    config = record["config"]
    del (
        config["stage"]["max_bad_steps"],
        config["dataset"]["max_frames"],
        config["model"]["options"],
    )
    write_json(folder / "run.json", {**record, "status": status})


def test_runs_and_starts_of_an_earlier_version_are_known(job, runner, start) -> None:
    home = runner.root / "sweep"
    job("before", *start, "seed=1")
    (own,) = (runner.root / "cold_start" / "shared").iterdir()
    shared = own.rename(own.with_name("before"))
    record = read_json(home / "before" / "run.json")
    record["config"]["model"]["path"] = f"{shared}/checkpoint"
    write_json(home / "before" / "run.json", record)
    made_earlier(shared)
    made_earlier(home / "before")
    job("same", *start, "seed=1")
    assert not (home / "same").exists()
    job("other", *start, "seed=1", "stage.max_bad_steps=1")
    assert [(row["run"], row["status"]) for row in journal(runner)[1:]] == [
        ("before", "skipped"), ("other", "finished"),
    ]  # fmt: skip
    assert list(shared.parent.iterdir()) == [shared]


def test_a_stopped_run_of_an_earlier_version_goes_on_in_its_folder(job, runner) -> None:
    job("before", *LONG, "seed=1")
    folder = runner.root / "sweep" / "before"
    made_earlier(folder, "running")
    job("now", *LONG, "seed=1")
    assert journal(runner)[-1]["run"] == "before"
    assert read_json(folder / "run.json")["status"] == "finished"
    assert not folder.with_name("now").exists()


def test_a_start_gets_so_many_examples(runner, start) -> None:
    cfg = runner.compose(*ONE, *start, "task.start_from.num_examples=2")
    with hydra():
        ready = build(cfg, runner.root / "x", None).inputs.build_start()
    assert len(ready.inputs.clips.examples["train"]) == 2
    with pytest.raises(UserError, match="train has only 12 examples"):
        runner.build(*ONE, "dataset.max_train_examples=13")


def hold(folder: Path, seconds: float) -> None:
    with starting.locked(folder):
        (folder / "held").touch()
        time.sleep(seconds)
        (folder / "done").touch()


def test_a_second_process_waits_for_the_start(tmp_path: Path) -> None:
    other = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path, 0.5))
    other.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with starting.locked(tmp_path):
        assert (tmp_path / "done").exists()
    other.join()


def test_a_sweep_ends_in_a_table_and_goes_on_where_it_stopped(runner) -> None:
    def sweep(devices: str):
        return runner.command("-m", "name=s", *ONE, "seed=0,1", f"trainer.devices={devices}")

    done = sweep("1,none")
    home = runner.root / "s" / "sweep"
    assert done.returncode == 1
    assert "sweep: 2 finished, 0 skipped, 2 failed" in done.stdout
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert [line.split(": ")[1] for line in failed] == [
        "seed=0 trainer.devices=none", "seed=1 trainer.devices=none",
    ]  # fmt: skip
    assert "run these alone with the same command: omni-rlvr -m name=s" in done.stderr
    assert len((home / "sweep_runs.csv").read_text().splitlines()) == 3
    assert "test/war" in (home / "sweep.md").read_text()
    statuses = [read_json(path)["status"] for path in home.glob("*/run.json")]
    assert sorted(statuses) == ["failed", "failed", "finished", "finished"]
    assert not (runner.root / "s" / "latest").exists()  # which of them would it be?
    done = sweep("1")
    assert done.returncode == 0, done.stderr
    assert "sweep: 0 finished, 2 skipped, 0 failed" in done.stdout


def test_a_sweep_ends_with_commands_that_work(command, runner, capsys) -> None:
    rates = "optimizer.lr=0.001,0.01"
    assert command("-m", "name=s", *ONE, rates) == 0
    home, out = runner.root / "s" / "sweep", capsys.readouterr().out
    listed, _, following = out.partition(f"\noutput: {home}\n")[2].partition("\nnext:\n")
    assert {"sweep.csv", "sweep.md", "sweep.jsonl"} <= {*listed.split()}
    assert " ".join(listed.split()).endswith(" a folder for each run")
    lines = following.replace("\\\n", " ").splitlines()
    report, rlvr, seeds = [shlex.split(line)[1:] for line in lines]
    assert report[0] == "task=report"
    assert report[-1] == "task.baseline=optimizer.lr:0.001"
    scores = {run.parents[1]: read_json(run)["war"] for run in home.glob("*/test/metrics.json")}
    (best,) = (text for text in rlvr if text.startswith("model.path="))
    assert rlvr[0] == "+experiment=rlvr"
    assert scores[Path(best.partition("=")[2]).parent] == max(scores.values())
    assert "-m" in seeds
    assert rates in seeds
    assert seeds[-1] == "seed=0,1,2"
    runner.overrides = []
    seeds = [text for text in seeds if not text.startswith("hydra/")]  # ``command`` adds these
    for arguments in (report, [*rlvr, "stage.max_steps=1", "stage.batch_size=2"], seeds):
        assert command(*arguments) == 0
    out = capsys.readouterr().out
    assert "\nWAR against optimizer.lr:0.001\n" in out
    assert "sweep: 4 finished, 2 skipped, 0 failed" in out
    assert "seed=0,1,2,3,4,5" in out


def test_a_key_that_does_not_exist_is_named_before_the_first_run(command, runner) -> None:
    text = command("-m", "name=s", *ONE, "seed=0,1", "stage.betta=0,1")
    assert text.startswith("error: ")
    assert "\n" not in text
    assert "stage.betta" in text
    assert not list(runner.root.glob("s/sweep/*/run.json"))


@needs_plugins
def test_runs_side_by_side_have_data_workers_and_share_a_start(runner, start) -> None:
    runner.packages.append(SWEEP_PACKAGES)
    runner.overrides.remove("dataset.num_workers=0")  # two, as the README's command has
    start = [text.replace("'dataset.num_workers=0',", "") for text in start]
    done = runner.command(
        "-m", "name=s", *ONE, *start, "seed=0,1",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "sweep: 2 finished, 0 skipped, 0 failed" in done.stdout
    for path in runner.root.glob("s/sweep/*/run.json"):
        assert read_json(path)["config"]["dataset"]["num_workers"] == 2
    assert len(list((runner.root / "cold_start" / "shared").iterdir())) == 1
    assert done.stdout.count("is made first") == 1


@needs_plugins
def test_a_search_goes_on_after_a_failed_trial(runner) -> None:
    runner.packages.append(SWEEP_PACKAGES)
    done = runner.command(
        "-m", "name=s", *ONE, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3",
        "hydra.sweeper.n_jobs=1", "hydra.sweeper.direction=maximize",
        "hydra.sweeper.max_failure_rate=1.0", "hydra.sweeper.sampler.seed=0",
        "optimizer.lr=choice(-1,0.001)",
    )  # fmt: skip
    rows = read_jsonl(runner.root / "s" / "sweep" / "sweep.jsonl")
    assert len(rows) == 3
    assert {row["status"] for row in rows} == {"finished", "skipped", "failed"}
    assert done.returncode == 1, done.stderr
    assert not [line for line in done.stderr.splitlines() if line.startswith("Traceback")]
