"""Where a sweep's runs go, and how a sweep ends: one table, a list of what failed, the exit code.

A sweep has one home that does not change with the time, so that the same command goes on where it
stopped: what is finished is skipped, what failed is run again, and nothing else.
"""

from __future__ import annotations

import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from omni_rlvr.record import identity, read_jsonl
from omni_rlvr.types import UserError

JOURNAL = "sweep.jsonl"
NOT_IN_A_NAME = ("sweep", "experiment", "debug", "name", "paths", "hydra", "logger", "callbacks")
LONGEST_NAME = 80


def run_name(overrides: Sequence[str], *, _root_: DictConfig) -> str:
    """Names a sweep's run by its overrides and by what it computes: ``beta-0.04_seed-1_3f2a9c1b``.

    Args:
        overrides: of the run, ``key=value`` each.
        _root_: its composed config, handed in by OmegaConf.
    """
    config = OmegaConf.create({k: v for k, v in _root_.items_ex(resolve=False) if k != "hydra"})
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, UserError):  # the run will say what is wrong
        plain = {"overrides": list(overrides)}
    parts = []
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        if re.split("[./]", key)[0] not in NOT_IN_A_NAME and not re.search(r"[/\[{]", value):
            parts.append(re.sub(r"[^A-Za-z0-9.-]+", "-", f"{key.split('.')[-1]}-{value}"))
    name = "_".join(parts)[:LONGEST_NAME].rstrip("-_.")
    return f"{name or 'run'}_{identity(plain)[:8]}"


class Sweep(Callback):
    """Opens the journal of a sweep and closes it with a table."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Starts the journal anew: it lists the runs of the last sweep, finished before or now."""
        home = Path(config.hydra.sweep.dir)
        try:
            home.mkdir(parents=True, exist_ok=True)
            (home / JOURNAL).unlink(missing_ok=True)
        except OSError as error:
            sys.exit(f"error: {error.strerror}: {error.filename}; set paths.output_root=DIR")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Writes the table; exits with 1 if a run failed."""
        try:
            failed = end_sweep(Path(config.hydra.sweep.dir))
        except UserError as error:
            sys.exit(f"error: {error}")
        except Exception:  # Hydra would make a warning of it
            traceback.print_exc()
            sys.exit(1)
        if failed:
            sys.exit(1)


def end_sweep(home: Path) -> int:
    """Puts a sweep's runs into one table and lists what failed; returns how many did.

    Raises:
        UserError: the runs cannot stand in one table.
    """
    from omni_rlvr.analysis.report.sweep_table import write_sweep_table

    jobs = read_jsonl(home / JOURNAL)
    failed = [job for job in jobs if job["status"] == "failed"]
    count = {s: sum(job["status"] == s for job in jobs) for s in ("finished", "skipped", "failed")}
    folders = [home / job["run"] for job in jobs if job["status"] != "failed"]
    if folders:
        write_sweep_table(home, list(dict.fromkeys(folders)))
    print("sweep: " + ", ".join(f"{n} {status}" for status, n in count.items()))
    shared = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    for job in failed:
        own = [text for text in job["overrides"] if text not in shared]
        print(f"failed: {' '.join(own)}: {job['error']}", file=sys.stderr)
    if failed:
        again = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        print(f"run these alone with the same command: {again}", file=sys.stderr)
    return len(failed)
