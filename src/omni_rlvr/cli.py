"""The command ``omni-rlvr``: Hydra composes a config, ``build`` checks and loads, ``run`` does the
task.

Slow imports such as torch wait until a config is composed, so that ``--help`` and the message about
a mistyped option appear at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import yaml
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException, ValidationError

from omni_rlvr import stopping
from omni_rlvr.assembly.composing.arguments import (
    as_typed,
    check_flags,
    checked_arguments,
    no_option,
)
from omni_rlvr.assembly.composing.suggestions import hydras_words
from omni_rlvr.assembly.composing.wording import as_user_error
from omni_rlvr.folders import remove_unused
from omni_rlvr.pointers import LATEST
from omni_rlvr.rewards.watchdog.time_limit import end_in_time
from omni_rlvr.tasks.sweep_summary import evaluate_by_default, summarised
from omni_rlvr.tasks.table import register
from omni_rlvr.text.terminal import keep_printing, open_streams, printable, start_in_utf8
from omni_rlvr.types import Interrupted, UserError

if TYPE_CHECKING:
    from omni_rlvr.tasks.build import Ready

_QUIET = 128 + signal.SIGPIPE
"""The exit code that a shell shows for a program whose output nobody reads any more."""

_PLUGINS = ("hydra/launcher/joblib", "hydra/sweeper/optuna")
"""Options of Hydra that need the extra ``sweep``."""


def conf_dir() -> str:
    """Return the folder of option files: the one in the wheel, else the one in the checkout."""
    packaged = Path(__file__).parent / "conf"
    return str(packaged if packaged.is_dir() else Path(__file__).parents[2] / "conf")


def task(cfg: DictConfig) -> float | None:
    """Build and run one composed config; a run of a sweep returns the value that a search
    maximises."""
    from omni_rlvr.tasks.build import build
    from omni_rlvr.tasks.start import resolved
    from omni_rlvr.tasks.sweep import SweepJob, begun_run, run_job

    hydra_cfg = HydraConfig.get()
    run_dir = Path(hydra_cfg.runtime.output_dir)

    def built(folder: Path, resume: str | None) -> Ready:
        cfg.resume = resume
        return build(cfg, folder, None)

    stopping.listen()  # needed where a launcher runs the job in a process of its own
    keep_printing()
    with one_line():  # here too, because Hydra adds a line to exceptions that leave a job
        if hydra_cfg.mode == RunMode.MULTIRUN:
            if "sweep" not in hydra_cfg.callbacks:
                raise UserError("~hydra.callbacks.sweep: a sweep is not conducted without it")
            home, overrides = Path(hydra_cfg.sweep.dir), list(hydra_cfg.overrides.task)
            job = SweepJob(hydra_cfg.job.num, home, run_dir, overrides)

            def resolve() -> dict[str, Any]:
                begun = begun_run(job, resolved(cfg)) or run_dir
                evaluate_by_default(cfg, overrides, begun)
                return resolved(cfg)

            return run_job(job, resolve, built)
        with no_folder_unused(run_dir):
            ready = build(cfg, run_dir, run_dir.parent / LATEST)
        ready.run()
    return None


@contextlib.contextmanager
def no_folder_unused(run_dir: Path) -> Iterator[None]:
    """Remove the folder that Hydra made for a run if the run fails before it writes anything."""
    try:
        yield
    except BaseException:
        if remove_unused(run_dir):
            with contextlib.suppress(OSError):  # they hold other runs
                run_dir.parent.rmdir()
                run_dir.parents[1].rmdir()
        raise


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """End the process with one line if the user can mend the error, or asked for a stop."""
    try:
        yield
        sys.stdout.flush()  # so that a write error is raised here and not while Python exits
    except Interrupted as stop:
        print(stop)
        sys.exit(stopping.exit_code())
    except KeyboardInterrupt:
        print("stopped")
        sys.exit(stopping.exit_code())
    except UserError as error:
        sys.exit(f"error: {printable(' '.join(str(error).split()))}")
    except OmegaConfBaseException as error:
        sys.exit(f"error: {as_user_error(error)}")
    except MissingConfigException as error:
        hint = "; pip install 'omni-rlvr[sweep]'" if error.missing_cfg_file in _PLUGINS else ""
        sys.exit(f"error: {_reworded(str(error))}{hint}")
    except HydraException as error:
        if (told := as_typed(error, sys.argv[1:])) is not None:
            sys.exit(f"error: {told}")
        why = as_user_error(error.__cause__) if isinstance(error.__cause__, ValidationError) else ""
        sys.exit(f"error: {_reworded(f'{error} {why}')}")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f"{mark.name}, line {mark.line + 1}: "
        sys.exit(f"error: {place}{error.problem} (YAML)")
    except ValueError as error:
        if not str(error).startswith("Config group override must be"):
            raise
        sys.exit(f"error: {no_option(sys.argv[1:])}")
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        sys.exit(_QUIET)
    except OSError as error:  # raised by Hydra when it cannot make the run's folder
        where = f": {error.filename}; set paths.output_root=DIR" if error.filename else ""
        sys.exit(f"error: {error.strerror}{where}")


def _reworded(text: str) -> str:
    """Reword a message of Hydra; this needs Hydra initialised, which it no longer is."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return hydras_words(" ".join(text.split()), sys.argv[1:])


def _reader_is_gone() -> bool:
    """Tell whether nobody reads the output any more, as after ``| head``; then discard the rest."""
    poll, gone = select.poll(), False
    for stream in (sys.stdout, sys.stderr):
        poll.register(stream.fileno(), 0)
    for descriptor, event in poll.poll(0):
        if event & (select.POLLERR | select.POLLHUP):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
            gone = True
    return gone


def main() -> None:
    """Run the command; an error that a user can mend is one line, not a traceback."""
    start_in_utf8()
    open_streams()
    logging.raiseExceptions = False  # a full disk must not print tracebacks of log files
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra passes errors on to here
    try:
        with one_line(), summarised():
            stopping.listen()
            register()
            sys.argv[1:] = checked_arguments(sys.argv[1:])
            check_flags(sys.argv[1:])
            hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")(task)()
    finally:
        end_in_time()
