"""One run of a sweep: skip it if it has finished, resume it if it was stopped, else start it.

A run that fails does not end the sweep. All runs of a sweep write below one folder, its home, where
``sweep.jsonl`` has a line for each run; tasks/sweep_summary.py begins that file and sums it up.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni_rlvr.assembly.compare import computes_the_same
from omni_rlvr.assembly.resume import goes_on
from omni_rlvr.folders import remove_unused
from omni_rlvr.record import RunRecord, append_jsonl, finished_config, read_json, read_record
from omni_rlvr.tasks.build import Ready
from omni_rlvr.tasks.sweep_summary import JOURNAL
from omni_rlvr.types import Interrupted, UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepJob:
    """One run of a sweep."""

    number: int
    """The number of the run in the sweep, from 0."""
    home: Path
    """The sweep's folder."""
    run_dir: Path
    """The run's folder, below the sweep's."""
    overrides: Sequence[str]
    """The overrides that tell it from the other runs, for messages."""


def run_job(
    job: SweepJob,
    resolve: Callable[[], dict[str, Any]],
    build: Callable[[Path, str | None], Ready],
) -> float | None:
    """Do one run of a sweep: skip it if it has finished, resume it if it was stopped.

    Args:
        job: The run.
        resolve: Returns its resolved config, as it will stand in run.json.
        build: Builds it, given its folder and the option ``resume``, which is that folder for a run
            that is resumed and else None.

    Returns:
        WAR in percent on the first split of ``task.evaluate_after``, which a search maximises; None
        without such an evaluation, and for a failed run.

    Raises:
        Interrupted: The user asked for a stop, which ends the whole sweep.
    """
    started, run_dir = time.perf_counter(), job.run_dir
    row: dict[str, object] = {"job": job.number, "overrides": list(job.overrides)}
    config = None
    try:
        config = resolve()
        there = finished_run(job, config)
        if there is not None:
            print(f"skipped: finished in {there}", flush=True)
            run_dir = there
        elif (stopped := stopped_run(job, config)) is not None:
            print(f"going on: {stopped} was stopped before its end", flush=True)
            run_dir = stopped
            build(run_dir, str(run_dir)).run()
        else:
            _clear(run_dir)
            build(run_dir, None).run()
        row["status"] = "skipped" if there else "finished"
        return objective(run_dir, config)
    except (Interrupted, KeyboardInterrupt, SystemExit) as stop:
        row |= {"status": "interrupted", "error": _one_line(stop)}
        raise
    except Exception as error:
        row |= {"status": "failed", "error": _one_line(error)}
        log.error("%s: %s", run_dir, row["error"], exc_info=not isinstance(error, UserError))
        if config is not None:
            _record_failure(run_dir, config, error)
        return None
    finally:
        if run_dir != job.run_dir:
            remove_unused(job.run_dir)
        row["run"] = os.path.relpath(run_dir, job.home)
        row["seconds"] = round(time.perf_counter() - started, 2)
        append_jsonl(job.home / JOURNAL, [row])


@contextlib.contextmanager
def saved_before_submitit_acts() -> Iterator[None]:
    """Let a run stop and save before Submitit submits its job again.

    Submitit has a job told by SIGUSR2 that its time is nearly over or that it must make room. Its
    own handler would end the process in the middle of a step; here it acts once the run has saved.
    """
    submitit = signal.getsignal(signal.SIGUSR2)
    if not callable(submitit):
        yield
        return
    is_asked = False

    def stop(number: int, frame: object) -> None:
        nonlocal is_asked
        is_asked = True
        os.kill(os.getpid(), signal.SIGUSR1)  # which ``stopping`` listens to

    signal.signal(signal.SIGUSR2, stop)
    try:
        yield
    except (Interrupted, KeyboardInterrupt, SystemExit):
        if is_asked:
            submitit(signal.SIGUSR2, None)  # ends this process
        raise
    finally:
        signal.signal(signal.SIGUSR2, submitit)


def finished_run(job: SweepJob, config: dict[str, Any]) -> Path | None:
    """Find a finished run of the same config in the sweep's home.

    Raises:
        UserError: A run of another config has finished in the folder of this one.
    """
    for folder in _folders(job):
        before = finished_config(folder)
        if before is not None and computes_the_same(before, config):
            return folder
    if finished_config(job.run_dir) is not None:
        raise UserError(
            f"{job.run_dir} holds a finished run of another config; every run of a sweep needs a "
            "folder of its own: leave hydra.sweep.subdir alone, or let it name what differs"
        )
    return None


def stopped_run(job: SweepJob, config: dict[str, Any]) -> Path | None:
    """Find a stopped run of the same config in the sweep's home that can be resumed."""
    for folder in _folders(job):
        if goes_on(folder, config) and (
            folder == job.run_dir or computes_the_same(read_record(folder)["config"], config)
        ):
            return folder
    return None


def begun_run(job: SweepJob, config: dict[str, Any]) -> Path | None:
    """Find a run of this config in the sweep's home that has finished or can be resumed."""
    try:
        return finished_run(job, config) or stopped_run(job, config)
    except UserError:  # another run is there; ``run_job`` says so
        return None


def _folders(job: SweepJob) -> list[Path]:
    """List the folder of a run, and those of the other runs in its sweep's home.

    In an earlier version, the same run had another folder name.
    """
    return [job.run_dir, *(path.parent for path in sorted(job.home.glob("*/run.json")))]


def objective(run_dir: Path, config: dict[str, Any]) -> float | None:
    """Read WAR on the first split that the run was evaluated on."""
    task = config["task"]
    splits = task["evaluate_after"]["splits"] if task["name"] == "train" else []
    return read_json(run_dir / splits[0] / "metrics.json")["war"] if splits else None


def _clear(run_dir: Path) -> None:
    """Remove the files of an earlier, failed attempt; keep Hydra's files of this attempt."""
    if (run_dir / "run.json").exists():
        for path in run_dir.iterdir():
            if path.is_dir() and not path.is_symlink() and path.name != ".hydra":
                shutil.rmtree(path)
            elif path.suffix != ".log" and path.name != ".hydra":
                path.unlink()


def _record_failure(run_dir: Path, config: dict[str, Any], error: Exception) -> None:
    """Record in run.json that a run failed, if it failed before it wrote run.json itself."""
    if not (run_dir / "run.json").exists():
        record = RunRecord(run_dir, config, device="none")
        record.update(error=f"{type(error).__name__}: {error}")
        record.finish("failed")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    own_words = isinstance(error, UserError | Interrupted)
    return text if own_words else f"{type(error).__name__}: {text}"
