"""Watches the processes of a run: waits for them, hands signals on, and ends what is left.

Which failure was the cause is told by time: a rank that fails writes down why before its neighbours
can see that it is gone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from omni_rlvr import stopping
from omni_rlvr.tasks.launch.job import Outcome, hung_file, outcome_file

POLL_S = 0.05


def wait(processes: Sequence[subprocess.Popen], folder: Path) -> Outcome:
    """Waits until all have ended or one has failed: the first failure, else what rank 0 says."""
    while True:
        codes = [process.poll() for process in processes]
        outcomes = [_outcome(rank, code, folder) for rank, code in enumerate(codes)]
        failed = [out for out in outcomes if out is not None and out.ends_others]
        if failed and any(codes):
            return min(failed, key=lambda outcome: outcome.at)
        if all(code is not None for code in codes):
            assert outcomes[0] is not None
            return outcomes[0]
        time.sleep(POLL_S)


def end(processes: Sequence[subprocess.Popen]) -> None:
    """Kills what is left of the processes and of their workers."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


@contextlib.contextmanager
def forwarding(processes: Sequence[subprocess.Popen]) -> Iterator[None]:
    """Hand Ctrl-C and the signals of schedulers on to the processes."""

    def forward(number: int) -> None:
        for process in processes:
            process.send_signal(number)

    with stopping.passed_on(forward):
        yield


def _outcome(rank: int, code: int | None, folder: Path) -> Outcome | None:
    """How the process of a rank ended, None if it has not; one that cannot say so was killed."""
    file = outcome_file(folder, rank)
    if file.exists():
        return pickle.loads(file.read_bytes())
    if code is None:
        return None
    hung = hung_file(folder, rank)
    if hung.exists():
        text, at = hung.read_text(encoding="utf-8"), hung.stat().st_mtime
        return Outcome("user", "RewardTimeout", text, traceback="", at=at)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    message = f"the process of rank {rank} {how} and could not say why; was there memory enough?"
    return Outcome("user", "UserError", message, traceback="", at=0.0)
