"""Several processes that end before their time: killed, or told twice to stop. None is left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from make_ranks import TWO
from test_hanging_reward import MARK, marked
from test_resume import num_lines, wait_for

from omni_rlvr.record import read_json
from omni_rlvr.types import UserError

SLOW = (
    "+reward.terms.slow._target_=case_signals.Slow",
    "+reward.weights.slow=1",
    "stage.max_steps=50",
)


@pytest.fixture(autouse=True)
def _marked(runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARK, str(runner.root))


def begun(runner, name: str) -> subprocess.Popen[str]:
    """A run on two ranks that has done a step."""
    process = runner.start(*runner.grpo, *SLOW, TWO, f"name={name}")
    wait_for(process, lambda: num_lines(runner.root / name) >= 1, limit_s=300)
    return process


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a command started for its ranks, rank 0 first."""
    return [
        number
        for number, parent in marked(os.environ[MARK]).items()
        if parent == process.pid and b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes()
    ]


def none_left(root: Path) -> None:
    until = time.monotonic() + 60
    while (left := marked(str(root))) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left


def test_a_rank_that_is_killed_is_named_and_ends_the_others(runner) -> None:
    process = begun(runner, "killed")
    (record,) = (runner.root / "killed").glob("2*/run.json")
    with pytest.raises(UserError, match=rf"is in use by process {ranks_of(process)[0]} on"):
        runner.build(*runner.grpo, *SLOW, TWO, "name=killed", f"resume={record.parent}")
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: the process of rank 1 was ended by SIGKILL without a message")
    assert "Traceback" not in output
    assert read_json(record)["status"] == "failed"
    assert "rank 1" in read_json(record)["error"]
    none_left(runner.root)


def test_a_rank_in_a_rollout_is_ended_soon_after_another_one_failed(runner) -> None:
    reward = "+reward.terms.mine._target_=case_signals.OneFails"
    runner.overrides += [TWO, reward, "+reward.weights.mine=1", "reward.timeout_s=null"]
    done = runner.command(*runner.grpo, "name=busy", timeout=200)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "mine raised ValueError: no score for this one" in line
    assert "begins with example: clips/" in line
    (record,) = (runner.root / "busy").glob("2*/run.json")
    assert read_json(record)["status"] == "failed"
    assert read_json(record)["error"].startswith("RewardError: reward term mine raised")
    none_left(runner.root)


def test_ranks_whose_command_is_killed_end_too(runner) -> None:
    process = begun(runner, "orphans")
    assert len(ranks_of(process)) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    none_left(runner.root)
    (record,) = (runner.root / "orphans").glob("2*/run.json")
    assert read_json(record)["status"] in ("running", "interrupted")  # both can be resumed


def test_a_second_ctrl_c_stops_several_processes_at_once(runner) -> None:
    slower = [
        text
        for i in range(3)
        for text in (f"+reward.terms.s{i}._target_=case_signals.Slow", f"+reward.weights.s{i}=1")
    ]  # a step of more than two seconds
    runner.overrides += slower
    process = begun(runner, "twice")
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1.3)  # a sooner one is the same one
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    none_left(runner.root)
