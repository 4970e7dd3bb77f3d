"""Watch the processes of a run: wait for them, pass signals on, and kill those that are left.

The earliest failure counts as the cause, because a rank that fails writes its outcome before the
other ranks can notice that it is gone.
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
    """Wait until all have ended or one has failed; return the first failure, else rank 0's end."""
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
    """Kill the processes and their workers that still run."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


@contextlib.contextmanager
def forwarding(processes: Sequence[subprocess.Popen]) -> Iterator[None]:
    """Pass Ctrl-C and the signals of schedulers on to the processes."""

    def forward(number: int) -> None:
        for process in processes:
            process.send_signal(number)

    with stopping.passed_on(forward):
        yield


def _outcome(rank: int, code: int | None, folder: Path) -> Outcome | None:
    """Return how the process of a rank ended, or None while it runs.

    A process that ended without an outcome was killed.
    """
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
