"""Find the newest run of an experiment, for ``${latest:NAME}``, and say how a run ended.

A run may also be a stage of that name in a pipeline: after the quickstart, ``${latest:rlvr}`` is
the RLVR stage of the quickstart. A run that did not finish is an error; the message says how to
resume it and how to use it as it is.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from omni_rlvr.assembly.composing.help_page import conf_dir, options_in
from omni_rlvr.lock import IN_USE, check_free
from omni_rlvr.pointers import (
    CHECKPOINT,
    LATEST,
    checkpoints_of,
    follow,
    newest_run,
    problem,
    run_of,
)
from omni_rlvr.ranks import rendezvous
from omni_rlvr.record import STOPPED, find_record, finished_config, read_record
from omni_rlvr.types import UserError


def latest_checkpoint(root: Path, experiment: str) -> Path | None:
    """Find the checkpoint of the newest run of an experiment.

    Args:
        root: ``paths.output_root``.
        experiment: The experiment's name.

    Returns:
        The checkpoint's folder, with links resolved, or None if there is no such run.

    Raises:
        UserError: The newest run did not finish; the message says how to resume it, and how to use
            it as it is.
    """
    runs = [*_own_run(root, experiment), *_finished_stages(root, experiment)]
    if not runs:
        _refuse_lost(root / experiment / LATEST)
        return None
    newest = max(runs, key=_started)
    record = find_record(newest)
    if record is not None and not has_finished(newest):
        raise UserError(
            f"{newest} {how_it_ended(newest)}, so it is not used automatically; "
            f"{_go_on(newest, record)}, or {shlex.quote(f'model.path={newest / CHECKPOINT}')} uses "
            "it as it is"
        )
    return follow(newest / CHECKPOINT).resolve()


def no_run_of(root: Path, experiment: str) -> str:
    """Say that an experiment has no run, and what makes one or which runs there are."""
    told = f"there is no run of '{experiment}' under {root} to start from"
    if experiment in options_in([Path(conf_dir())])["experiment"]:
        return f"{told}; run 'omni-rlvr +experiment={experiment}' first, or set model.path=DIR"
    return f"{told}; set model.path=DIR, {checkpoints_there(root)}"


def checkpoints_there(root: Path) -> str:
    """Name checkpoints that may be given in place of one that is not there."""
    pointers = sorted([*root.glob(f"*/{LATEST}"), *root.glob(f"*/*/{LATEST}")])
    there = [str(p / CHECKPOINT) for p in pointers if follow(p / CHECKPOINT).is_dir()]
    found = f"e.g. {' or '.join(there[:2])}" if there else f"of which {root} holds none yet"
    return f"{found}, or a hub id, e.g. StarJiaxing/R1-Omni-0.5B"


def run_that_wrote(checkpoint: Path) -> Path | None:
    """Find the run that wrote a checkpoint; None for a checkpoint that lies outside a run.

    A checkpoint is ``RUN/checkpoint``, or the folder behind it, ``RUN/checkpoints/step_N``.
    """
    runs = (run_of(checkpoint), run_of(checkpoint.resolve()))
    return next((run for run in runs if find_record(run) is not None), None)


def has_finished(run: Path) -> bool:
    """Tell whether a run finished, by its run.json."""
    return finished_config(run) is not None


def how_it_ended(run: Path) -> str:
    """Say how a run ended and after which step, e.g. ``was interrupted after step 9``."""
    record = find_record(run)
    if record is None:
        return "has no run.json that says how it ended"
    step = _last_step(run / "metrics.jsonl")
    after = "" if step is None else f" after step {step}"
    words = {
        "finished": f"finished{after}",
        "interrupted": f"was interrupted{after}",
        "failed": f"failed{after}",
        "running": f"has not ended{after}: it is still running, or was killed",
    }
    return words.get(record["status"], f"ended as {record['status']}{after}")


def _own_run(root: Path, experiment: str) -> Iterator[Path]:
    """Yield the run that ``latest`` of the experiment names, if it has a checkpoint."""
    run = follow(root / experiment / LATEST)
    if follow(run / CHECKPOINT).is_dir():
        yield run.resolve()


def _refuse_lost(latest: Path) -> None:
    """Name a run with a checkpoint if the link to it was lost, e.g. in copying."""
    newest = newest_run(latest.parent)
    if newest is not None:
        taken = shlex.quote(f"model.path={newest / CHECKPOINT}")
        raise UserError(
            f"{latest} does not lead to a run with a checkpoint{problem(latest)}; {taken} uses "
            "the newest run that has one"
        )


def _finished_stages(root: Path, experiment: str) -> Iterator[Path]:
    """Yield the finished stages of that name in all pipelines."""
    for file in root.glob(f"*/*/{experiment}/run.json"):
        stage, pipeline = file.parent, find_record(file.parents[1])
        is_stage = pipeline is not None and experiment in pipeline["config"]["task"].get(
            "stages", {}
        )
        is_link = stage.parent.is_symlink()  # ``latest``: its target is found under its own name
        if is_stage and not is_link and has_finished(stage) and follow(stage / CHECKPOINT).is_dir():
            yield stage


def _started(run: Path) -> float:
    record = find_record(run)
    return 0.0 if record is None else datetime.fromisoformat(record["started"]).timestamp()


def _go_on(run: Path, record: dict[str, Any]) -> str:
    """Give the command that resumes a run of task=train."""
    command = [text for text in record["command"] if not text.startswith("resume=")]
    return f"'{shlex.join([*command, f'resume={run}'])}' resumes it"


def _last_step(path: Path) -> int | None:
    """Read the step of the last whole line of a metrics.jsonl; None without one."""
    last = None
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                last = line if line.endswith("\n") else last  # a killed run may leave half a line
    try:
        return None if last is None else int(json.loads(last)["step"])
    except (ValueError, KeyError):
        return None


def settle_resume(cfg: DictConfig, home: Path) -> None:
    """Let ``resume=latest`` begin a new run if a scheduler's job has nothing to resume from.

    A scheduler starts a job again with the same command line. A new run begins, with a message, in
    two cases: the job was stopped before its first checkpoint; or it was started as several
    processes (torchrun, srun, a PyTorchJob) and this is its first start. A person who types the
    command without such a launcher has mistaken the name then, and ``check_resume`` says so.

    Args:
        cfg: The composed config, which is changed.
        home: The folder of all runs of the name.
    """
    if cfg.resume == LATEST and (why := rendezvous.broadcast(lambda: _why_anew(home))):
        print(f"resume={LATEST}: {why}; starting a new run", flush=True)
        cfg.resume = None


def _why_anew(home: Path) -> str:
    """Say why ``resume=latest`` begins a new run; empty if it does not."""
    if (stopped := stopped_at_the_start(home)) is not None:
        return f"{stopped} was stopped before its first checkpoint"
    is_first = not any(home.glob("*/run.json")) and newest_run(home) is None
    lost = problem(home / LATEST) or (home / LATEST).exists()
    if rendezvous.started() is not None and is_first and not lost:
        return f"{home} has no run yet"
    return ""


def stopped_at_the_start(home: Path) -> Path | None:
    """Find the last run of a name, if it was stopped before its first checkpoint.

    A scheduler starts a job again with the same command line, which may hold ``resume=latest``. If
    there is no checkpoint to resume from, the run must begin anew.

    Args:
        home: The folder of all runs of the name.

    Returns:
        Its folder; None if an earlier run can be resumed, or the last one ended in another way.

    Raises:
        FolderInUse: Another process is using that folder.
    """
    runs = {path.parent for path in home.glob("*/run.json")} - {home / LATEST}
    last = max(runs, default=None)
    if last is None or checkpoints_of(last) or read_record(last)["status"] not in STOPPED:
        return None
    pointed = run_of(home / LATEST)
    if (pointed / "run.json").exists() and read_record(pointed)["status"] != "finished":
        return None
    check_free(last, IN_USE)
    return last
