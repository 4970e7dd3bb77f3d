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
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from omni_rlvr import stopping
from omni_rlvr.assembly.announce import announce
from omni_rlvr.assembly.composing.arguments import check_flags, checked_arguments
from omni_rlvr.assembly.composing.help_page import conf_dir
from omni_rlvr.assembly.composing.latest import settle_resume
from omni_rlvr.assembly.composing.suggestions import composing_error
from omni_rlvr.folders import no_folder_unused
from omni_rlvr.pointers import LATEST
from omni_rlvr.ranks import environment, failure, rendezvous
from omni_rlvr.rewards.watchdog.time_limit import end_in_time
from omni_rlvr.tasks.sweep_summary import evaluate_by_default, summarised
from omni_rlvr.tasks.table import register
from omni_rlvr.text.terminal import keep_printing, open_streams, printable, start_in_utf8
from omni_rlvr.types import Interrupted, UserError

if TYPE_CHECKING:
    from omni_rlvr.tasks.build import Ready

_QUIET = 128 + signal.SIGPIPE
"""The exit code that a shell shows for a program whose output nobody reads any more."""
EXIT_CODES = {
    0: "The task is done. Of a sweep: every run is finished.",
    1: "An error. One that you can mend is one line that begins with `error:`; any other one is a "
    "traceback. Of a sweep: a run is not finished; of several processes: one of them failed.",
    2: "A flag that does not exist, such as `--nothing`, with the usage.",
    128 + signal.SIGINT: "Stopped by Ctrl-C. Training has saved; `resume=latest` goes on.",
    128 + signal.SIGKILL: "A reward term hung in code that cannot be interrupted; run.json says "
    "which. Or the system killed the process, for want of memory as a rule.",
    _QUIET: "Nobody reads the output any more, as when it is piped into `head`.",
    128 + signal.SIGTERM: "Stopped by SIGTERM, SIGHUP or SIGUSR1, as schedulers do. Training has "
    "saved; `resume=latest` goes on.",
}
"""Every code that the command ends with, and what it means."""


def task(cfg: DictConfig) -> float | None:
    """Build and run one composed config; a run of a sweep returns the value that a search
    maximises."""
    hydra_cfg = HydraConfig.get()
    run_dir = Path(hydra_cfg.runtime.output_dir)
    stopping.listen()  # needed where a launcher runs the job in a process of its own
    keep_printing()
    with one_line():  # here too, because Hydra adds a line to exceptions that leave a job
        if hydra_cfg.mode == RunMode.MULTIRUN:
            return _run_of_sweep(cfg, run_dir)
        with no_folder_unused(run_dir):
            if rendezvous.started() is not None:
                from omni_rlvr.record import leaves
                from omni_rlvr.tasks.start import resolved

                rendezvous.check_seen(run_dir, "paths.output_root")
                rendezvous.check_same(leaves(resolved(cfg)))
            settle_resume(cfg, run_dir.parent)
            config, typed = announce(cfg, run_dir)
            from omni_rlvr.assembly.follow_up import close
            from omni_rlvr.tasks.build import build  # takes seconds, because it imports torch

            ready = build(cfg, run_dir, run_dir.parent / LATEST)
        ready.run()
        close(config, typed, run_dir, ready.inputs)
    return None


def _run_of_sweep(cfg: DictConfig, run_dir: Path) -> float | None:
    from omni_rlvr.tasks.build import build
    from omni_rlvr.tasks.start import resolved
    from omni_rlvr.tasks.sweep import SweepJob, begun_run, run_job, saved_before_submitit_acts

    hydra_cfg = HydraConfig.get()
    register()  # anew, where a launcher runs the job in a process of its own
    if "sweep" not in hydra_cfg.callbacks:
        raise UserError("~hydra.callbacks.sweep: a sweep does not work without it; leave it there")
    home, overrides = Path(hydra_cfg.sweep.dir), list(hydra_cfg.overrides.task)
    job = SweepJob(hydra_cfg.job.num, home, run_dir, overrides)

    def resolve() -> dict[str, Any]:
        begun = begun_run(job, resolved(cfg)) or run_dir
        evaluate_by_default(cfg, overrides, begun)
        return resolved(cfg)

    def built(folder: Path, resume: str | None) -> Ready:
        cfg.resume = resume
        announce(cfg, folder)
        return build(cfg, folder, None)

    with saved_before_submitit_acts():
        return run_job(job, resolve, built)


def silence_others() -> None:
    """Print only errors in this process, if another one of the same run prints."""
    if not rendezvous.is_first():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        warnings.simplefilter("ignore")


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """End the process with one line if the user can mend the error, or asked for a stop."""
    try:
        with failure.reported_once():
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
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        sys.exit(_QUIET)
    except Exception as error:
        if (reworded := composing_error(error, sys.argv[1:])) is not None:
            sys.exit(f"error: {reworded}")
        if not isinstance(error, OSError):
            raise
        # raised by Hydra when it cannot make the run's folder
        where = f": {error.filename}; set paths.output_root=DIR" if error.filename else ""
        sys.exit(f"error: {error.strerror}{where}")


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
    # conf/hydra/launcher gets the types of the plugins' options so, in every Hydra before 1.4
    warnings.filterwarnings("ignore", "(?s).*is validated against ConfigStore schema with the same")
    try:
        with one_line(), summarised():
            stopping.listen()
            if (how := environment.of_environment(os.environ)) is not None:
                rendezvous.connect(how)
                silence_others()
            register()
            sys.argv[1:] = checked_arguments(sys.argv[1:])
            check_flags(sys.argv[1:])
            hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")(task)()
        rendezvous.leave()
    finally:
        end_in_time()


if __name__ == "__main__":
    main()
