"""Processes that end badly: who is named, what is killed, and how signals travel."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni_rlvr.tasks.launch.job import Outcome, outcome_file
from omni_rlvr.tasks.launch.watch import end, forwarding, wait


def start(script: str) -> subprocess.Popen:
    """A process of its own session, as those of ranks are."""
    command = [sys.executable, "-c", script]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def leave(folder: Path, rank: int, kind: str, message: str, at: float) -> None:
    """Leaves a rank's outcome."""
    outcome = Outcome(kind, "SomeError", message, traceback="", at=at)
    outcome_file(folder, rank).write_bytes(pickle.dumps(outcome))


WAITS = "import time; time.sleep(100)"
FAILS = "raise SystemExit(1)"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen]]:
    processes: list[subprocess.Popen] = []
    yield processes
    end(processes)
    assert all(process.returncode is not None for process in processes)


def test_the_first_failure_is_the_cause(tmp_path: Path, started) -> None:
    leave(tmp_path, 0, "failed", "connection reset by peer", at=2.0)
    leave(tmp_path, 1, "user", "no such clip", at=1.0)
    started += [start(FAILS), start(WAITS)]  # rank 1 said why, and is not quite gone
    assert wait(started, tmp_path).message == "no such clip"


def test_a_killed_process_is_named_and_the_others_are_not_waited_for(tmp_path, started) -> None:
    started += [start(WAITS), start("import os; os.kill(os.getpid(), 9)")]
    message = wait(started, tmp_path).message
    assert message.startswith("the process of rank 1 was ended by SIGKILL")


def test_a_rank_that_stopped_as_asked_waits_for_the_one_that_saves(tmp_path, started) -> None:
    leave(tmp_path, 1, "interrupted", "stopped", at=1.0)
    file = outcome_file(tmp_path, 0)
    bytes_left = pickle.dumps(Outcome("interrupted", "", "saved", traceback="", at=2.0))
    slow = f"import time; time.sleep(0.5); open({str(file)!r}, 'wb').write({bytes_left!r}); exit(1)"
    started += [start(slow), start(FAILS)]
    assert wait(started, tmp_path).message == "saved"


def test_signals_are_handed_on_and_given_back(started) -> None:
    before = signal.getsignal(signal.SIGINT)
    started += [start(WAITS), start(WAITS)]
    with forwarding(started):
        os.kill(os.getpid(), signal.SIGTERM)
        codes = [process.wait() for process in started]
    assert codes == [-signal.SIGTERM] * 2
    assert signal.getsignal(signal.SIGINT) is before


def test_workers_of_a_rank_are_killed_with_it(tmp_path: Path, started) -> None:
    note = tmp_path / "worker"
    script = f"""
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
open({str(note)!r}, "w").write(str(worker.pid))
"""
    started.append(start(script + "raise SystemExit(1)"))
    started[0].wait()
    end(started)
    state = Path(f"/proc/{note.read_text()}/stat")
    until = time.monotonic() + 30  # the signal is on its way
    while state.exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.01)
