"""The folder of a sweep, and its end: one table, a line for each run that failed, the exit code.

All runs of a sweep write below one folder, its home, whose name does not hold the time. The same
command therefore continues a sweep: it skips finished runs and does the others. Only one sweep at a
time may use a home.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from omni_rlvr.assembly.composing.names import check_run_name
from omni_rlvr.config.dataset import lacks_file
from omni_rlvr.lock import FolderLock
from omni_rlvr.record import append_jsonl, find_record, read_jsonl
from omni_rlvr.types import Interrupted, UserError

JOURNAL = "sweep.jsonl"
STARTED = ".sweep_started.jsonl"
"""A line for each run that was started; a run without a line in the journal did not end."""
DONE = ("finished", "skipped")
"""The statuses of runs that finished, in this sweep or before."""
STATUSES = (*DONE, "failed", "interrupted", "vanished")
ALWAYS_SHOWN = (*DONE, "failed")


AFTER = re.compile(r"\+*task\.evaluate_after(\.splits)?=")
"""The start of an override that sets the splits a run is evaluated on."""
TEST = "test"


def evaluate_by_default(cfg: DictConfig, overrides: Sequence[str], run_dir: Path) -> None:
    """Let a training run of a sweep be evaluated on the test split, so that the sweep has scores.

    Left alone are runs whose command line sets the splits themselves, that are evaluated anyway,
    whose data set has no test split that can be read, and that were begun without an evaluation.

    Args:
        cfg: the run's composed config, which is changed.
        overrides: what the command line gave the run.
        run_dir: the run's folder, which may hold a run that goes on or is finished.
    """
    if cfg.task.name != "train" or cfg.task.evaluate_after.splits:
        return
    no_split = TEST not in cfg.dataset.splits or lacks_file(cfg.dataset, TEST)
    if no_split or any(map(AFTER.match, overrides)):
        return
    before = find_record(run_dir) or {"status": "failed"}
    if before["status"] != "failed" and not before["config"]["task"]["evaluate_after"]["splits"]:
        return
    cfg.task.evaluate_after.splits = [TEST]


conducted: dict[Path, FolderLock] = {}
"""The home of the sweep that this process runs -> its lock, until the sweep ends."""


class Sweep(Callback):
    """Begin the journal of a sweep, and record which of its runs are started."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a run that would write into the working folder itself."""
        _check_folders(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin a new journal, which lists the runs of this sweep, also those that finished
        before."""
        _check_folders(config, "hydra.sweep.dir")
        home = Path(config.hydra.sweep.dir)
        try:
            check_run_name(config.name)
            check_search(config)
            home.mkdir(parents=True, exist_ok=True)
            advice = "wait for it, or choose another folder with name=NAME or hydra.sweep.dir=DIR"
            conducted[home] = FolderLock(home, advice)
            for file in (JOURNAL, STARTED):
                (home / file).unlink(missing_ok=True)
        except UserError as error:  # Hydra would turn an exception into a warning
            sys.exit(f"error: {error}")
        except OSError as error:
            sys.exit(f"error: {error.strerror}: {error.filename}; set paths.output_root=DIR")
        where = QuotedString(str(home), Quote.single).with_quotes()
        with read_write(config), open_dict(config):  # Hydra composes every run with these overrides
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={where}")

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Record that a run of the sweep begins; called in the process of that run."""
        if config.hydra.mode == RunMode.MULTIRUN:
            home = Path(config.hydra.sweep.dir)
            row = {
                "job": config.hydra.job.num,
                "overrides": list(config.hydra.overrides.task),
                "run": os.path.relpath(config.hydra.runtime.output_dir, home),
            }
            append_jsonl(home / STARTED, [row])


def _check_folders(config: DictConfig, folder: str) -> None:
    for key in ("paths.output_root", folder):
        if not str(OmegaConf.select(config, key)).strip():
            sys.exit(f"error: {key} is empty: it must name a folder, e.g. {key}=outputs")


def check_search(config: DictConfig) -> None:
    """Check that there is a score to search for, where the sweep is a search.

    Raises:
        UserError: no run would have a score, or the search is for the lowest one.
    """
    sweeper, task = config.hydra.sweeper, config.task
    if "direction" not in sweeper:
        return
    if task.name != "train" or not task.evaluate_after.splits:
        raise UserError(
            "hydra/sweeper=optuna: a search needs the score that a run reaches, WAR on the first "
            "split of task.evaluate_after.splits, and that list is empty: set "
            "task.evaluate_after.splits=[SPLIT] (of task=train)"
        )
    direction = str(sweeper.direction).removeprefix("Direction.")
    if direction != "maximize":
        raise UserError(
            f"hydra.sweeper.direction={direction}: what is searched for is the highest WAR; set "
            "hydra.sweeper.direction=maximize"
        )


@contextlib.contextmanager
def summarised() -> Iterator[None]:
    """Print the summary of a sweep, however it ended, if this process ran one.

    Exits with 1 if a run did not finish.

    Raises:
        UserError: the sweep could not be conducted to its end, or its runs cannot stand in one
            table.
        Interrupted: the user asked for a stop.
    """
    try:
        yield
    except BaseException as error:
        for home in conducted:
            if jobs := account(home, stopped=isinstance(error, KeyboardInterrupt)):
                say_what_became(jobs)
            worded = _worded(error)
            if worded is not None:
                raise worded from error
        raise
    else:
        for home in conducted:
            end_sweep(home)
    finally:
        while conducted:
            conducted.popitem()[1].release()


def _worded(error: BaseException) -> Exception | None:
    """Say in one line why a launcher or a sweeper failed; None for what has its own words."""
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("the sweep was stopped; the same command goes on with it")
    own_words = UserError | HydraException | OmegaConfBaseException | OSError
    if isinstance(error, own_words) or not isinstance(error, Exception):
        return None
    text = " ".join(str(error).split())
    return UserError(f"the sweep ended early: {type(error).__name__}: {text}")


def end_sweep(home: Path) -> None:
    """Put a sweep's runs into one table and say what became of each.

    Exits with 1 if not all finished.

    Raises:
        UserError: the runs cannot stand in one table.
    """
    from omni_rlvr.assembly.compare import completed
    from omni_rlvr.tasks.report.sweep_table import write_sweep_table

    jobs = account(home, stopped=False)
    folders = [home / job["run"] for job in jobs if job["status"] in DONE]
    try:
        write_sweep_table(home, list(dict.fromkeys(folders)), completed)
    finally:
        say_what_became(jobs)
    if not jobs:
        raise UserError("the sweep has no run: a list of values is empty")
    if any(job["status"] not in DONE for job in jobs):
        sys.exit(1)


def account(home: Path, *, stopped: bool) -> list[dict[str, Any]]:
    """Read the journal and add the runs that were started and left no line there.

    Args:
        home: the sweep's.
        stopped: whether the user stopped the sweep, and with it these runs.
    """
    jobs = read_jsonl(home / JOURNAL)
    ended = {job["job"] for job in jobs}
    lost = [row for row in read_jsonl(home / STARTED) if row["job"] not in ended]
    how = {"status": "vanished", "error": "its process was killed; was there too little memory?"}
    if stopped:
        how = {"status": "interrupted", "error": "the sweep was stopped"}
    rows = [{**row, **how} for row in lost]
    append_jsonl(home / JOURNAL, rows)
    return [*jobs, *rows]


def say_what_became(jobs: Sequence[dict[str, Any]]) -> None:
    """Print how many runs of a sweep ended in which way, and name those that did not finish."""
    count = {status: sum(job["status"] == status for job in jobs) for status in STATUSES}
    shown = [f"{n} {status}" for status, n in count.items() if n or status in ALWAYS_SHOWN]
    print("sweep: " + ", ".join(shown))
    shared = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    rest = [job for job in jobs if job["status"] not in DONE]
    for job in rest:
        own = [text for text in job["overrides"] if text not in shared]
        print(f"{job['status']}: {' '.join(own)}: {job['error']}", file=sys.stderr)
    if rest:
        again = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        print(f"run these alone with the same command: {again}", file=sys.stderr)
