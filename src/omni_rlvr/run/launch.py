"""Runs a task on several devices: a process each, which this one starts, watches and ends.

Each process is handed the composed config itself, so that none can compose another one or choose
another folder. The first that fails ends the others, and its error is raised here, once, as if the
task had run in this process. Signals go to all of them; if this process dies, they do too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from omni_rlvr.parts import LaunchParts
from omni_rlvr.record import close_record
from omni_rlvr.run.job import Job, Outcome, outcome_file
from omni_rlvr.types import Interrupted, UserError

POLL_S = 0.05


def launch(parts: LaunchParts) -> None:
    """Runs a task in a process a device and waits for all of them.

    Raises:
        UserError: one of them raised it, or was killed.
        Interrupted: they were asked to stop, and did.
        RuntimeError: anything else that ended one; holds its traceback.
    """
    with tempfile.TemporaryDirectory(prefix="omni-rlvr-") as folder:
        processes: list[subprocess.Popen] = []
        try:
            for rank in range(len(parts.devices)):
                processes.append(_start(parts, rank, Path(folder)))
            with _forwarding(processes):
                outcome = _wait(processes, Path(folder))
        finally:
            _end(processes)
    if outcome.kind != "finished":
        status = "interrupted" if outcome.kind in ("interrupted", "cut") else "failed"
        error = f"{outcome.name}: {outcome.message}" if status == "failed" else None
        close_record(parts.place.run_dir, status, error)
    if outcome.kind == "interrupted":
        raise Interrupted(outcome.message)
    if outcome.kind == "cut":
        raise KeyboardInterrupt
    if outcome.kind == "user":
        raise UserError(outcome.message)
    if outcome.kind == "failed":
        raise RuntimeError(f"a process of the run failed:\n{outcome.traceback}")


def _start(parts: LaunchParts, rank: int, folder: Path) -> subprocess.Popen:
    """Starts the process of a rank, in a session of its own: a terminal's Ctrl-C is for this one.

    Its standard input stays open as long as this process lives, and so tells it of our end.
    """
    job = Job(
        config=parts.config,
        run_dir=parts.place.run_dir,
        latest=parts.place.latest,
        rank=rank,
        num_ranks=len(parts.devices),
        folder=folder,
        command=sys.argv,
        log_files=[
            handler.baseFilename
            for handler in logging.getLogger().handlers
            if isinstance(handler, logging.FileHandler)
        ],
    )
    threads = str(max(1, (os.cpu_count() or 1) // len(parts.devices)))
    quiet = [] if rank == 0 else ["-W", "ignore"]
    process = subprocess.Popen(
        [sys.executable, "-P", *quiet, "-m", "omni_rlvr.run.rank"],
        env={"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=None if rank == 0 else subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has failed already; its exit code says so
        process.stdin.write(pickle.dumps(job))
        process.stdin.flush()
    return process


def _wait(processes: Sequence[subprocess.Popen], folder: Path) -> Outcome:
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


def _end(processes: Sequence[subprocess.Popen]) -> None:
    """Kills what is left of the processes and of their workers."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


@contextlib.contextmanager
def _forwarding(processes: Sequence[subprocess.Popen]) -> Iterator[None]:
    """Hands Ctrl-C and SIGTERM on to the processes."""

    def forward(number: int, frame: object) -> None:
        for process in processes:
            process.send_signal(number)

    before = {n: signal.signal(n, forward) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _outcome(rank: int, code: int | None, folder: Path) -> Outcome | None:
    """How the process of a rank ended, None if it has not; one that cannot say so was killed."""
    file = outcome_file(folder, rank)
    if file.exists():
        return pickle.loads(file.read_bytes())
    if code is None:
        return None
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    message = f"the process of rank {rank} {how} and could not say why; was there memory enough?"
    return Outcome("user", "UserError", message, traceback="", at=0.0)
