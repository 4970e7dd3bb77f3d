"""The folder of a sweep, and its end: one table, a line for each run that failed, the exit code.

All runs of a sweep write below one folder, its home, whose name does not hold the time. The same
command therefore continues a sweep: it skips finished runs and does the others. Only one sweep at a
time may use a home.

Its runs may be jobs in other processes and on other machines (Hydra's launchers), which see the
home in a shared folder. Several machines that add lines to one file at a time may lose some, so
what each run leaves in its own folder counts where the journal has no line of it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from omni_rlvr.assembly.composing.names import check_run_name
from omni_rlvr.config.dataset import lacks_file
from omni_rlvr.lock import OWNER, FolderLock, owner_of
from omni_rlvr.ranks import rendezvous
from omni_rlvr.record import append_jsonl, find_record, read_json, read_jsonl, write_json
from omni_rlvr.types import Interrupted, UserError

JOURNAL = "sweep.jsonl"
STARTED = ".sweep_started"
"""A folder with a file for each run that was started; one without a line in the journal did not
end."""
DONE = ("finished", "skipped")
"""The statuses of runs that finished, in this sweep or before."""
STATUSES = (*DONE, "failed", "interrupted", "vanished", "running")
ALWAYS_SHOWN = (*DONE, "failed")
EXTRAS = {
    "hydra_joblib_launcher": ("joblib", "sweep"),
    "hydra_submitit_launcher": ("submitit", "sweep"),
    "hydra_ray_launcher": ("ray", "ray"),
}
"""Plugin of Hydra that launches jobs -> the package that it needs, and the extra with both."""
DETACHED = "hydra_submitit_launcher"
"""The plugin whose jobs go on when the sweep's own process has ended."""


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


@dataclass(frozen=True)
class Conducted:
    """A sweep that this process runs."""

    lock: FolderLock
    """Of its home."""
    is_detached: bool
    """Whether its jobs go on when this process has ended."""
    is_search: bool
    """Whether it looks for the best values, one run after another."""


conducted: dict[Path, Conducted] = {}
"""The home of the sweep that this process runs, until the sweep ends."""


class Sweep(Callback):
    """Begin the journal of a sweep, and record which of its runs are started.

    It is sent along with every job, to whatever process or machine does it.
    """

    def __init__(self) -> None:
        self.command = list(sys.argv)
        """What the user typed; a job's process has other arguments."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a run that would write into the working folder itself."""
        _check_folders(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin a new journal, which lists the runs of this sweep, also those that finished
        before."""
        _check_folders(config, "hydra.sweep.dir")
        home = Path(config.hydra.sweep.dir)
        try:
            _require_alone()
            check_run_name(config.name)
            check_search(config)
            plugin = check_launcher(config.hydra.launcher)
            home.mkdir(parents=True, exist_ok=True)
            advice = "wait for it, or choose another folder with name=NAME or hydra.sweep.dir=DIR"
            conducted[home] = Conducted(
                FolderLock(home, advice), plugin == DETACHED, "direction" in config.hydra.sweeper
            )
            (home / JOURNAL).unlink(missing_ok=True)
            shutil.rmtree(home / STARTED, ignore_errors=True)
            (home / STARTED).mkdir()
        except UserError as error:  # Hydra would turn an exception into a warning
            sys.exit(f"error: {error}" if rendezvous.is_first() else 1)
        except OSError as error:
            sys.exit(f"error: {error.strerror}: {error.filename}; set paths.output_root=DIR")
        where = QuotedString(str(home), Quote.single).with_quotes()
        with read_write(config), open_dict(config):  # Hydra composes every run with these overrides
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={where}")
            if plugin is not None:
                # Hydra warned of what gives a launcher's file its types, in every job's process.
                chosen = config.hydra.runtime.choices["hydra/launcher"]
                ConfigStore.instance().repo["hydra"]["launcher"].pop(f"{chosen}.yaml", None)
            if plugin == "hydra_ray_launcher":
                _prepare_ray(config.hydra.launcher.ray.init)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Record that a run of the sweep begins; called in the process of that run."""
        if config.hydra.mode == RunMode.MULTIRUN:
            sys.argv = list(self.command)
            home = Path(config.hydra.sweep.dir)
            row = {
                "job": config.hydra.job.num,
                "overrides": list(config.hydra.overrides.task),
                "run": os.path.relpath(config.hydra.runtime.output_dir, home),
            }
            write_json(home / STARTED / f"{config.hydra.job.num}.json", row)


def check_launcher(launcher: DictConfig) -> str | None:
    """Check that what starts the jobs of a sweep is installed and starts one process for each.

    Returns:
        The plugin of Hydra's that starts them; None for Hydra's own launcher.

    Raises:
        UserError: A package is missing, or jobs of several tasks are asked for.
    """
    plugin = next((name for name in EXTRAS if f".{name}." in launcher._target_), None)
    if plugin is None:
        return None
    package, extra = EXTRAS[plugin]
    if not (_is_installed(f"hydra_plugins.{plugin}") and _is_installed(package)):
        raise UserError(
            f"{launcher._target_}: {plugin.replace('_', '-')} and {package} are not both "
            f"installed; pip install 'omni-rlvr[{extra}]'"
        )
    for key in ("tasks_per_node", "nodes"):
        if launcher.get(key, 1) != 1:
            raise UserError(
                f"hydra.launcher.{key}={launcher[key]}: a job of a sweep is one task on one node, "
                "which starts a process for each of trainer.devices itself; leave "
                f"hydra.launcher.{key}=1 and set trainer.devices (a run over several nodes is "
                "started by srun, see docs/how-to/scale.md)"
            )
    return plugin


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it would stand in
        return False


def _prepare_ray(init: DictConfig) -> None:
    """Let Ray report to nobody, and send a cluster that is there no options of a new one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if init.address is not None:
        init.object_store_memory = None


def _require_alone() -> None:
    """Refuse a sweep in each of several processes.

    Raises:
        UserError: This process is one of several.
    """
    how = rendezvous.started()
    if how is not None and how.world_size > 1:
        raise UserError(
            f"-m: a sweep starts the processes of each run itself, but {how.world_size} were "
            f"started by {how.by}; start the sweep alone, with trainer.devices=N for each run, or "
            "with hydra/launcher=submitit_slurm"
        )


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
        for home, sweep in conducted.items():
            stopped = isinstance(error, KeyboardInterrupt)
            if jobs := account(home, stopped=stopped, detached=sweep.is_detached):
                say_what_became(jobs)
            if sweep.is_detached and (home / ".submitit").exists():
                print(
                    f"jobs that were submitted go on or wait for their turn; {home}/.submitit has "
                    "a folder for each, by its number (on Slurm, scancel NUMBER ends one)",
                    file=sys.stderr,
                )
            worded = _worded(error)
            if worded is not None:
                raise worded from error
        raise
    else:
        for home, sweep in conducted.items():
            end_sweep(home, is_search=sweep.is_search)
    finally:
        while conducted:
            conducted.popitem()[1].lock.release()


def _worded(error: BaseException) -> Exception | None:
    """Say in one line why a launcher or a sweeper failed; None for what has its own words."""
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("the sweep was stopped; the same command goes on with it")
    own_words = UserError | HydraException | OmegaConfBaseException | OSError
    if isinstance(error, own_words) or not isinstance(error, Exception):
        return None
    text = " ".join(str(error).split())
    return UserError(f"the sweep ended early: {type(error).__name__}: {text}")


def end_sweep(home: Path, *, is_search: bool) -> None:
    """Put a sweep's runs into one table, say what became of each, and what makes sense next.

    Exits with 1 if not all finished.

    Raises:
        UserError: the runs cannot stand in one table.
    """
    from omni_rlvr.assembly.compare import completed
    from omni_rlvr.assembly.follow_up import close_sweep
    from omni_rlvr.tasks.report.write import write_sweep_table

    jobs = account(home, stopped=False, detached=False)
    done = [job for job in jobs if job["status"] in DONE]
    folders = [home / job["run"] for job in done]
    try:
        table = write_sweep_table(home, list(dict.fromkeys(folders)), completed)
    finally:
        say_what_became(jobs)
    if not jobs:
        raise UserError("the sweep has no run: a list of values is empty")
    if table is not None:
        close_sweep(
            home,
            done[0]["overrides"],
            best=table.best,
            baseline=table.baseline,
            seeds=[] if is_search else table.seeds,
        )
    if len(done) < len(jobs):
        sys.exit(1)


def account(home: Path, *, stopped: bool, detached: bool) -> list[dict[str, Any]]:
    """Read the journal and add the runs that were started and left no line there.

    Args:
        home: the sweep's.
        stopped: whether the user stopped the sweep, and with it these runs.
        detached: whether jobs may still be at work, though the sweep has ended.
    """
    jobs = {row["job"]: row for row in read_jsonl(home / JOURNAL)}  # of a job done again, the last
    started = [read_json(path) for path in (home / STARTED).glob("*.json")]
    lost = [row for row in started if row["job"] not in jobs]
    how = {"status": "vanished", "error": "its process was killed; was there too little memory?"}
    if stopped:
        how = {"status": "interrupted", "error": "the sweep was stopped"}
    rows = [{**row, **(_left(home / row["run"], detached) or how)} for row in lost]
    append_jsonl(home / JOURNAL, rows)
    jobs |= {row["job"]: row for row in rows}
    return [jobs[number] for number in sorted(jobs)]


def _left(run_dir: Path, detached: bool) -> Mapping[str, str] | None:
    """Say what became of a run by what it left in its folder; None if that says nothing."""
    if (record := find_record(run_dir)) is not None and record["status"] == "finished":
        return {"status": "finished"}
    owner = owner_of(run_dir / OWNER) if detached else None
    if owner is None or owner.is_gone:
        return None
    return {"status": "running", "error": f"its job goes on ({owner}); wait for it"}


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
