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
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_rlvr import stopping
from omni_rlvr.assembly.composed import Composed, Place
from omni_rlvr.assembly.instantiate import resolve
from omni_rlvr.lock import LAUNCHER
from omni_rlvr.record import close_record
from omni_rlvr.tasks.launch.job import Job, Outcome
from omni_rlvr.tasks.launch.watch import end, forwarding, wait
from omni_rlvr.types import Interrupted, UserError

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
"""All ranks are on this machine: the name that it has in a network need not mean anything."""


@dataclass(frozen=True)
class Launch:
    """A task for several devices: each gets a process, which builds the task for itself."""

    place: Place
    config: Any
    """The composed config, with every reference in it resolved."""
    devices: Sequence[int]


def launch_of(composed: Composed) -> Launch:
    """Take what the processes of a task need."""
    return Launch(composed.place, resolve(composed.cfg), composed.devices)


def launch(parts: Launch) -> None:
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
                # held until the process listens, so that it can say how it ended
                with stopping.kept_from_children():
                    processes.append(_start(parts, rank, Path(folder)))
            with forwarding(processes):
                outcome = wait(processes, Path(folder))
        finally:
            end(processes)
    if outcome.kind != "finished":
        _fail(parts.place.run_dir, outcome)


def _fail(run_dir: Path, outcome: Outcome) -> None:
    """Says in run.json how the run ended, and raises what ended it."""
    stopped = outcome.kind in ("interrupted", "cut")
    error = None if stopped else f"{outcome.name}: {outcome.message}"
    close_record(run_dir, "interrupted" if stopped else "failed", error)
    if outcome.kind == "interrupted":
        raise Interrupted(outcome.message)
    if outcome.kind == "cut":
        raise KeyboardInterrupt
    if outcome.kind == "user":
        raise UserError(outcome.message)
    raise RuntimeError(f"a process of the run failed:\n{outcome.traceback}")


def _start(parts: Launch, rank: int, folder: Path) -> subprocess.Popen:
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
    inherited = {**LOOPBACK, **os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    inherited[LAUNCHER] = str(os.getpid())
    threads = str(max(1, (os.cpu_count() or 1) // len(parts.devices)))
    quiet = [] if rank == 0 else ["-W", "ignore"]
    process = subprocess.Popen(
        [sys.executable, "-P", *quiet, "-m", "omni_rlvr.tasks.launch.rank"],
        env={"OMP_NUM_THREADS": threads, **inherited},
        stdin=subprocess.PIPE,
        stdout=None if rank == 0 else subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has failed already; its exit code says so
        process.stdin.write(pickle.dumps(job))
        process.stdin.flush()
    return process
