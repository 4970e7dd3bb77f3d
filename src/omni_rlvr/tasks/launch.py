"""Run a task on several devices of this machine: one process each, by torch elastic.

``elastic_launch`` is the engine behind torchrun. It starts the processes, and ends all of them when
one fails. Each receives the composed config itself, so that all have the same config and folder.
Signals are passed on to all processes, and all of them stop if this process is killed.

Elastic runs on a thread of its own: there it leaves this process's signals alone, and the processes
inherit that signals wait until they can handle them. They end with an outcome or with elastic's
error file, so that an error is raised here as if the task had run in this process.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from omni_rlvr import stopping
from omni_rlvr.assembly.composed import Composed, Place
from omni_rlvr.assembly.instantiate import resolve
from omni_rlvr.lock import LAUNCHER
from omni_rlvr.ranks import environment, failure, rendezvous
from omni_rlvr.record import close_record, write_json
from omni_rlvr.rewards.watchdog.time_limit import end_in_time, reported_in
from omni_rlvr.text.terminal import LogHandler, keep_printing
from omni_rlvr.training.devices import take_device
from omni_rlvr.types import Interrupted, UserError

Result = TypeVar("Result")
_LOOK_S = 0.5
_ENDED_S = 8.0
"""Seconds after the failure of a rank at which the others are killed; elastic itself would wait for
30 s before the error is shown if they are in the middle of a rollout."""
_TOLD_S = 3.0
"""Seconds that a rank that failed because of another one waits to be ended before it reports."""


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
    """Run a task in one process for each device of this machine, and wait for all of them.

    If this process is one of several, one on each machine, all of them call this function, and
    their child processes are the ranks of one run.

    Raises:
        UserError: A process raised one, or was killed.
        Interrupted: The processes were asked to stop, and did.
        RuntimeError: Anything else ended a process; the message holds its traceback.
    """
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # this function reports their errors
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as ranks.rendezvous
    with tempfile.TemporaryDirectory(prefix="omni-rlvr-") as folder:
        config = _elastic_config(inputs, folder)
        others = multiprocessing.active_children()  # of a script that uses the Python API

        def ranks() -> list[BaseProcess]:
            return [child for child in multiprocessing.active_children() if child not in others]

        try:
            with stopping.passed_on(partial(_send, ranks)), ThreadPoolExecutor(1) as elsewhere:
                running = elsewhere.submit(_launched, config, inputs, folder)
                ended = _result(running, ranks, len(inputs.devices))
        except ChildFailedError as error:
            _raise_cause(inputs.place, *error.get_first_failure())
    if (why := ended[min(ended)]) is not None:
        raise Interrupted(why)


def _elastic_config(inputs: Launch, folder: str) -> LaunchConfig:
    """Make the settings of elastic for this machine alone, or for one machine of several."""
    how = rendezvous.started()
    alone = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=len(inputs.devices),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        run_id=f"omni-rlvr-{os.getpid()}",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )
    if how is None or how.world_size == 1:
        return alone
    return replace(
        alone,
        min_nodes=how.world_size,
        max_nodes=how.world_size,
        rdzv_backend="static",  # a store that these processes have already connected to
        rdzv_endpoint=f"{how.host}:{how.port}",
        rdzv_configs={"rank": how.rank, "timeout": int(rendezvous.START_S)},
        local_addr=None,
        run_id=rendezvous.broadcast(lambda: f"omni-rlvr-{os.getpid()}-{time.time_ns()}"),
    )


def _launched(config: LaunchConfig, inputs: Launch, folder: str) -> dict[int, str | None]:
    """Start the ranks, which inherit this thread's signal mask, and wait for them."""
    handlers = logging.getLogger().handlers
    files = [each.baseFilename for each in handlers if isinstance(each, logging.FileHandler)]
    with stopping.kept_from_children():
        return elastic_launch(config, work)(inputs, files, folder)


def _result(
    running: Future[Result], find: Callable[[], list[BaseProcess]], num_ranks: int
) -> Result:
    """Wait for elastic; if a rank has failed, kill the others that do not end soon."""
    ranks: list[BaseProcess] = []
    ended: list[BaseProcess] = []
    while wait([running], _LOOK_S).not_done:
        if any(rank.exitcode for rank in ended):  # elastic's thread has read the exit code by now
            wait([running], _ENDED_S)
            for rank in ranks:
                rank.kill()
        if len(ranks) < num_ranks:
            ranks = find()
        ended = [rank for rank in ranks if connection.wait([rank.sentinel], timeout=0)]
    return running.result()


def _send(ranks: Callable[[], list[BaseProcess]], number: int) -> None:
    """Pass a signal on to the ranks; each is in a session of its own."""
    for process in ranks():
        if process.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(process.pid, number)


def _raise_cause(place: Place, rank: int, failed: ProcessFailure) -> None:
    """Raise the error that ended the run, and record it in run.json."""
    said, code = failed.error_file_data, failed.exitcode
    if "kind" not in said:
        how = f"ended with code {code}"
        if code < 0:
            how = f"was ended by {signal.Signals(-code).name}"
        text = f"the process of rank {rank} {how} without a message; was there memory enough?"
        said = {"kind": "user", "message": f"UserError: {text}"}
    is_stop, text = said["kind"] == "stop", said["message"]
    if rendezvous.is_first():
        close_record(place.run_dir, *(("interrupted", None) if is_stop else ("failed", text)))
    if is_stop:
        raise KeyboardInterrupt
    if said["kind"] == "user":
        raise UserError(text.partition(": ")[2])
    raise RuntimeError(f"a process of the run failed:\n{said['traceback']}")


def work(inputs: Launch, log_files: Sequence[str], folder: str) -> str | None:
    """Run one rank, in a process that elastic started.

    Args:
        inputs: The inputs of ``launch``.
        log_files: The files that rank 0 logs to, besides the terminal.
        folder: Elastic's folder, removed if the launching process was killed.

    Returns:
        Why it stopped before the end, if it was asked to; else None.
    """
    os.setsid()  # so that Ctrl-C in the terminal reaches only the launching process, once
    stopping.listen()
    try:
        why = _done(inputs, log_files)
    except BaseException as error:
        _fail(error)
        raise
    stopping.hear_no_more()  # an interrupt in elastic's code would lose the return value
    threading.Thread(target=_end_with_launcher, args=(folder,), daemon=True).start()
    end_in_time()
    return why


def _done(inputs: Launch, log_files: Sequence[str]) -> str | None:
    from omni_rlvr.tasks.build import build_one
    from omni_rlvr.tasks.table import register

    how = environment.of_environment(os.environ)
    assert how is not None
    if how.rank > 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        warnings.simplefilter("ignore")
    keep_printing()
    if "OMP_NUM_THREADS" not in os.environ:
        # the cores that this process may use; under Slurm these are not all cores of the machine
        torch.set_num_threads(max(1, torch.get_num_threads() // len(inputs.devices)))
    os.environ[LAUNCHER] = str(os.getppid())
    _log(how.rank, log_files)
    register()
    rendezvous.connect(replace(how, by="trainer.devices"))
    take_device(inputs.config.trainer, how.local_rank)
    rendezvous.init_process_group()
    with reported_in(outcome_file=Path(os.environ["TORCHELASTIC_ERROR_FILE"])):
        try:
            build_one(inputs.config, inputs.place.run_dir, inputs.place.latest).run()
        except Interrupted as stop:
            return str(stop)
    return None


def _end_with_launcher(folder: str) -> None:
    """End this process, which has done its work, if the launching process was killed."""
    while str(os.getppid()) == os.environ[LAUNCHER]:
        time.sleep(_LOOK_S)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _log(rank: int, files: Sequence[str]) -> None:
    """Log as the launching process does; ranks other than 0 log errors only."""
    outputs: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if rank == 0:
        outputs = [LogHandler()]
        outputs += [logging.FileHandler(name, encoding="utf-8") for name in files]
    level = logging.INFO if rank == 0 else logging.ERROR
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", handlers=outputs)


def _fail(error: BaseException) -> None:
    """End this process; tell the launching one why, unless another rank is the cause."""
    text, is_mine = failure.cause_of(error)
    if not is_mine:
        stopping.end_at_sigterm()  # elastic sends SIGTERM once it sees that the other rank failed
        time.sleep(_TOLD_S)  # not ended meanwhile: the other rank is on another machine
    is_told = isinstance(error, UserError) or failure.is_loss(error) or not is_mine
    said = {
        "message": text,
        "timestamp": int(time.time()),
        "kind": "stop" if failure.is_stop(text) else "user" if is_told else "failed",
        "traceback": traceback.format_exc(),
    }
    write_json(Path(os.environ["TORCHELASTIC_ERROR_FILE"]), said)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)  # skip Python's teardown, which may hang
