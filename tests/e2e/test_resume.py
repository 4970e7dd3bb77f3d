"""Stopping and going on: a resumed run equals the unbroken one bit for bit; no stop loses work."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Callback

from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.record import read_json, read_jsonl, write_json
from omni_rlvr.tasks.train import run
from omni_rlvr.types import Interrupted, UserError

TIMES = {"tokens/s", "step_time"}


class Interrupt(Callback):
    """Presses Ctrl-C after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int) -> None:
        if pl_module.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


SPREAD = ("+reward.terms.spread._target_=case_signals.Spread", "+reward.weights.spread=1")


def interrupted(runner, step: int, *overrides: str) -> Path:
    """Runs in-process and presses Ctrl-C after a step; returns the run's folder."""
    parts, folder = runner.build(*overrides)
    with pytest.raises(
        Interrupted, match=rf"^stopped at step {step} of .*resume={folder} goes on$"
    ):
        run(replace(parts, callbacks=[*parts.callbacks, Interrupt(step)]))
    assert read_json(folder / "run.json")["status"] == "interrupted"
    return folder


def steady(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl without what a clock says."""
    rows = read_jsonl(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def grpo(runner, *more: str) -> tuple[str, ...]:
    """Four steps that move the weights, a checkpoint every two."""
    return (
        *runner.grpo,
        *SPREAD,
        "stage.max_steps=4",
        "stage.save_steps=2",
        "stage.num_iterations=2",
        *more,
    )


def test_a_resumed_run_equals_the_unbroken_one(runner) -> None:
    torch.manual_seed(99)  # what the process drew before must not matter
    whole = runner(*grpo(runner))
    torch.manual_seed(7)
    parted = interrupted(runner, 2, *grpo(runner))
    assert [row["step"] for row in steady(parted)] == [1, 2]
    assert runner(*grpo(runner), "resume=latest") == parted
    assert read_json(parted / "run.json")["status"] == "finished"
    assert steady(parted) == steady(whole)
    assert read_jsonl(parted / "completions.jsonl") == read_jsonl(whole / "completions.jsonl")
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (parted / "checkpoint" / file).read_bytes() == (
            whole / "checkpoint" / file
        ).read_bytes()
    states = [torch.load(f / "checkpoint" / "trainer_state.pt") for f in (parted, whole)]
    for name in ("optimizer", "schedule", "num_tokens", "step"):
        assert_same(states[0][name], states[1][name])
    advantages = [row["advantage"] for row in read_jsonl(whole / "completions.jsonl")]
    assert any(advantages)  # else nothing was learnt and nothing compared
    assert any(row["kl"] > 0 for row in steady(whole))


def assert_same(one: object, other: object) -> None:
    """Compares nested values, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def test_sft_resumes_exactly_in_another_epoch(runner) -> None:
    sft = (*runner.sft, "stage.max_steps=6")  # 3 of 12 a step: the second epoch begins at step 5
    whole, parted = runner(*sft), interrupted(runner, 3, *sft)
    runner(*sft, f"resume={parted}")
    assert steady(parted) == steady(whole)
    weights = [(f / "checkpoint" / "model.safetensors").read_bytes() for f in (whole, parted)]
    assert weights[0] == weights[1]


def test_a_resumed_run_keeps_its_logs(runner) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sft = (*runner.sft, "stage.max_steps=4")
    parted = interrupted(runner, 2, *sft)
    runner(*sft, "resume=latest")
    events = EventAccumulator(str(parted / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    lines = (parted / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "1", "2", "3", "4"]


def test_a_resumed_run_keeps_the_list_of_skipped_clips(runner, clips: Path) -> None:
    rows = (clips / "train.json").read_text().replace("clips/", "nowhere/", 1)
    (runner.root.parent / "bad.json").write_text(rows)
    sft = (
        *runner.sft,
        "stage.max_steps=4",
        "dataset.on_bad_media=skip",
        f"dataset.annotations.train={runner.root.parent}/bad.json",
    )  # 12 clips in 4 steps: each is met once
    whole = runner(*sft)
    failed = [row["media/failed"] for row in read_jsonl(whole / "metrics.jsonl")]
    met = failed.index(1.0) + 1
    parted = interrupted(runner, max(met, 1), *sft) if met < 4 else interrupted(runner, 1, *sft)
    runner(*sft, "resume=latest")
    skipped = [read_json(f / "run.json")["skipped_clips"] for f in (whole, parted)]
    assert len(skipped[0]) == 1
    assert skipped[1] == skipped[0]


def test_resuming_a_finished_run_changes_nothing(runner) -> None:
    folder = runner(*runner.sft)
    before = (folder / "checkpoint" / "model.safetensors").read_bytes(), steady(folder)
    assert runner(*runner.sft, "resume=latest") == folder
    assert ((folder / "checkpoint" / "model.safetensors").read_bytes(), steady(folder)) == before
    assert read_json(folder / "run.json")["status"] == "finished"


def test_resume_with_another_config_is_refused_by_name(runner) -> None:
    folder = interrupted(runner, 1, *runner.sft)
    with pytest.raises(UserError, match=r"optimizer\.lr \(0\.001 then, 0\.01 now\)"):
        runner(*runner.sft, "resume=latest", "optimizer.lr=0.01")
    with pytest.raises(UserError, match=r"stage\.batch_size"):
        runner(*runner.grpo, "resume=latest")
    assert len(read_jsonl(folder / "metrics.jsonl")) == 1  # untouched


@pytest.mark.parametrize("where", ["latest", "some/folder"])
def test_resume_without_a_run_is_a_clear_error(runner, where: str) -> None:
    with pytest.raises(UserError, match=rf"resume={where}: there is no run of 'train'"):
        runner(*runner.sft, f"resume={where}")


def test_a_requeued_job_begins_anew_if_nothing_was_saved(
    runner, command, capsys: pytest.CaptureFixture
) -> None:
    config = OmegaConf.to_container(runner.compose(*runner.sft), resolve=False)
    stopped = runner.root / "train" / "2020-01-01_00-00-00+0000"
    stopped.mkdir(parents=True)
    write_json(stopped / "run.json", {"config": config, "status": "interrupted"})
    assert command(*runner.sft, "resume=latest") == 0
    assert f"resume=latest: {stopped} was stopped before its first" in capsys.readouterr().out
    run_dir = (runner.root / "train" / "latest").resolve()
    assert run_dir != stopped
    record = read_json(run_dir / "run.json")
    assert (record["status"], record["config"]["resume"]) == ("finished", None)
    assert not (stopped / "metrics.jsonl").exists()


def wait_for(process, ready: Callable[[], bool], limit_s: float = 60) -> None:
    """Waits until something is so while a process runs."""
    until = time.monotonic() + limit_s
    while not ready():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < until, "nothing happened in time"
        time.sleep(0.01)


def num_lines(home: Path) -> int:
    """Lines of metrics.jsonl of the only run below a folder."""
    files = list(home.glob("*/metrics.jsonl"))
    return len(files[0].read_text().splitlines()) if files else 0


def test_ctrl_c_saves_and_exits_with_130(runner) -> None:
    long = (*runner.sft, "stage.max_steps=25", "name=long", "stage.save_steps=100")
    runner.overrides[runner.overrides.index("dataset.num_workers=0")] = "dataset.num_workers=2"
    process = runner.start(*long)
    home = runner.root / "long"
    wait_for(process, lambda: num_lines(home) >= 2)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers too
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "Error" not in output  # nor Hydra's line about the job, nor a worker's
    assert output.count("stopping after this step") == 1
    folder = (home / "latest").resolve()
    (message,) = re.findall(r"^stopped at step .*$", output, re.MULTILINE)
    assert message.endswith(f"resume={folder} goes on")
    record = read_json(folder / "run.json")
    assert record["status"] == "interrupted"
    done = torch.load(folder / "checkpoint" / "trainer_state.pt")["step"]
    assert done == num_lines(home) < 25
    assert runner(*long, "resume=latest") == folder
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == list(range(1, 26))
    assert read_json(folder / "run.json")["status"] == "finished"


def test_a_kill_leaves_the_last_good_checkpoint(runner) -> None:
    long = (*runner.sft, "stage.max_steps=16", "stage.save_steps=2", "name=killed")
    process = runner.start(*long)
    home = runner.root / "killed"
    wait_for(process, lambda: num_lines(home) >= 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    folder = (home / "latest").resolve()
    load_policy(str(folder / "checkpoint"), "float32", None)
    saved = torch.load(folder / "checkpoint" / "trainer_state.pt")["step"]
    assert re.fullmatch(rf"step_0*{saved}", (folder / "checkpoint").resolve().name)
    assert saved >= 4
    assert read_json(folder / "run.json")["status"] == "running"  # nobody could say otherwise
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')  # a line torn by the kill
    runner(*long, "resume=latest")
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == list(range(1, 17))
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "step_000014",
        "step_000016",
    ]  # no leftovers


def test_a_run_that_is_alive_is_not_resumed_and_one_that_was_killed_is(runner) -> None:
    long = (*runner.sft, "stage.max_steps=40", "stage.save_steps=1", "name=alive")
    process = runner.start(*long)
    home = runner.root / "alive"
    wait_for(process, (home / "latest").exists)
    os.kill(process.pid, signal.SIGSTOP)  # alive, however long this test takes
    message = rf"is in use by process {process.pid} on .*; wait until it ends, or stop it"
    with pytest.raises(UserError, match=message):
        runner.build(*long, "resume=latest")
    parts, _ = runner.build(*long)
    place = replace(parts.place, run_dir=(home / "latest").resolve())
    with pytest.raises(UserError, match=message):
        run(replace(parts, place=place))  # as a command that began in the same second
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    runner.build(*long, "resume=latest")
