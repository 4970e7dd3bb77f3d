"""Run a task on several devices: start one process for each, watch them, and end them.

Each process receives the composed config itself, so that all have the same config and folder. The
first process that fails ends the others; its error is raised here, as if the task had run in this
process. Signals are passed on to all processes, and all of them end if this process dies.
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
from omni_rlvr.tasks.launch.job import Job
from omni_rlvr.tasks.launch.watch import end, forwarding, wait
from omni_rlvr.types import Interrupted, UserError

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
"""Let gloo use the loopback device: all ranks are on this machine, whose name in the network may
not resolve."""


@dataclass(frozen=True)
class Launch:
    """A task for several devices, each with a process that builds the task for itself."""

    place: Place
    config: Any
    """The composed config, with all references resolved."""
    devices: Sequence[int]


def launch_of(composed: Composed) -> Launch:
    """Collect the inputs of ``launch``."""
    return Launch(composed.place, resolve(composed.cfg), composed.devices)


def launch(inputs: Launch) -> None:
    """Run a task in one process for each device, and wait for all of them.

    Raises:
        UserError: A process raised one, or was killed.
        Interrupted: The processes were asked to stop, and did.
        RuntimeError: Anything else ended a process; the message holds its traceback.
    """
    with tempfile.TemporaryDirectory(prefix="omni-rlvr-") as folder:
        processes: list[subprocess.Popen] = []
        try:
            for rank in range(len(inputs.devices)):
                # hold signals back until the process handles them, so that it can report its end
                with stopping.kept_from_children():
                    processes.append(_start(inputs, rank, Path(folder)))
            with forwarding(processes):
                outcome = wait(processes, Path(folder))
        finally:
            end(processes)
    if outcome.kind == "finished":
        return
    stopped = outcome.kind in ("interrupted", "cut")
    error = None if stopped else f"{outcome.name}: {outcome.message}"
    close_record(inputs.place.run_dir, "interrupted" if stopped else "failed", error)
    if outcome.kind == "interrupted":
        raise Interrupted(outcome.message)
    if outcome.kind == "cut":
        raise KeyboardInterrupt
    if outcome.kind == "user":
        raise UserError(outcome.message)
    raise RuntimeError(f"a process of the run failed:\n{outcome.traceback}")


def _start(inputs: Launch, rank: int, folder: Path) -> subprocess.Popen:
    """Start the process of a rank in a session of its own, so that Ctrl-C reaches only this one.

    Its standard input stays open while this process lives; when it closes, the rank ends itself.
    """
    job = Job(
        config=inputs.config,
        run_dir=inputs.place.run_dir,
        latest=inputs.place.latest,
        rank=rank,
        num_ranks=len(inputs.devices),
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
    threads = str(max(1, (os.cpu_count() or 1) // len(inputs.devices)))
    quiet = [] if rank == 0 else ["-W", "ignore"]
    process = subprocess.Popen(
        [sys.executable, "-P", *quiet, "-m", "omni_rlvr.tasks.launch.rank"],
        env={"OMP_NUM_THREADS": threads, **inherited},
        stdin=subprocess.PIPE,
        stdout=None if rank == 0 else subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(
        BrokenPipeError
    ):  # the process has failed already, and its exit code says so
        process.stdin.write(pickle.dumps(job))
        process.stdin.flush()
    return process
