"""Check that a run can be resumed: its checkpoint is intact, and the config computes the same.

``MAY_DIFFER`` lists the options that may change when a run is resumed: paths, logging, and the
machine. A change of any other option would change the numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from omni_rlvr.assembly.compare import differing
from omni_rlvr.folders import check_sums
from omni_rlvr.lock import IN_USE, check_free
from omni_rlvr.pointers import (
    CHECKPOINT,
    CHECKPOINTS,
    LATEST,
    TRAINER_STATE,
    follow,
    newest_run,
    problem,
    whole_before,
)
from omni_rlvr.record import STOPPED, leaves, read_record
from omni_rlvr.types import UserError

log = logging.getLogger(__name__)

MAY_DIFFER = (
    # paths
    "paths.*",
    "dataset.root",
    "dataset.annotations.*",  # the examples must be the same
    "model.path",  # the weights must be the same: see assembly/origin.py
    "model.base",
    "feature_cache.folder",
    # names, logging and saving
    "name",
    "resume",
    "logger.*",
    "callbacks.*",
    "stage.save_steps",
    "stage.save_total_limit",
    "stage.logging_steps",
    # the machine; rounding may differ, as between any two machines
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.log_every_n_steps",
    "trainer.enable_*",
    "stage.micro_batch_size",
    "stage.max_tokens_per_micro_batch",
    "stage.gradient_checkpointing",
    "stage.reuse_rollout",
    "stage.no_sync",
    # how clips are read
    "dataset.num_workers",
    "dataset.splits.*.num_workers",
    "dataset.decode_timeout_s",
    "dataset.max_clips_per_process",
    # how long a reward may take
    "reward.timeout_s",
    # how large a clip may be
    "dataset.max_frame_pixels",
    "dataset.max_frames",
    "dataset.max_duration_s",
    "dataset.min_sample_rate",
    "dataset.max_sample_rate",
    "dataset.max_streams",
    "dataset.max_memory_gb",
    "feature_cache.max_gb",
    # facts about the data set, which only other tasks read
    "dataset.published*",
    "dataset.known_bad*",
    "task.evaluate_after.batch_size",
    "task.evaluate_after.score_labels",
)
"""Patterns of config keys."""
PLACES = ("paths.output_root", "paths.data_root", "dataset.root", "dataset.annotations.*")
"""Those of ``MAY_DIFFER`` that are the beginning of other paths in a resolved config."""


def goes_on(run_dir: Path, config: dict[str, Any]) -> bool:
    """Tell whether a run of this resolved config was stopped there and left a checkpoint.

    A run that failed is not resumed, since the cause may be in its weights.

    Raises:
        UserError: its run.json cannot be read.
    """
    has_checkpoint = (follow(run_dir / CHECKPOINT) / TRAINER_STATE).exists()
    if not (has_checkpoint and (run_dir / "run.json").exists()):
        return False
    before = read_record(run_dir)
    return before["status"] in STOPPED and not _compare(before, config)[0]


def resumed_checkpoint(run_dir: Path, resume: str) -> Path:
    """Return the checkpoint that a run is resumed from: the one in ``resume``, or its newest."""
    named = Path(resume)
    return named if named.parent.name == CHECKPOINTS else follow(run_dir / CHECKPOINT)


def check_resume(run_dir: Path, resume: str, config: dict[str, Any]) -> None:
    """Check that a run can be resumed, and log the differences that do not change its numbers.

    Args:
        run_dir: the folder of the run.
        resume: the value of the option, for messages.
        config: the present resolved config.

    Raises:
        UserError: it cannot be resumed; the message names what is missing or what differs.
    """
    check_free(run_dir, IN_USE)
    checkpoint = resumed_checkpoint(run_dir, resume)
    if not checkpoint.is_dir():
        raise UserError(_no_checkpoint(run_dir, resume, config["name"]))
    has_state = (checkpoint / TRAINER_STATE).exists()
    wrong = check_sums(checkpoint) or (None if has_state else f"{TRAINER_STATE} is missing")
    if wrong is not None:
        raise UserError(f"resume={resume}: {checkpoint}: {wrong}; {_instead(checkpoint)}")
    try:
        before = read_record(run_dir)
    except UserError as error:
        raise UserError(
            f"resume={resume}: {error}, so the config of the run is not known; start a new run "
            f"from model.path={checkpoint}"
        ) from error
    changed, harmless = _compare(before, config)
    if changed:
        raise UserError(
            f"resume={resume}: the config differs from the run's in {'; '.join(changed[:5])}; "
            "give the same overrides, or start a new run with model.path"
        )
    for text in harmless:
        if not text.startswith("resume "):  # the user gave it
            log.info("resume: %s", text)


def _no_checkpoint(run_dir: Path, resume: str, name: str) -> str:
    """Write why there is nothing to resume from, and what to do instead."""
    if (run_dir / "run.json").exists():
        return (
            f"resume={resume}: {run_dir} has no checkpoint; it was stopped before its first "
            "(stage.save_steps); start it again without resume"
        )
    pointer = run_dir.parent / LATEST if resume == LATEST else Path(resume)
    newest = newest_run(run_dir.parent)
    other = "" if newest is None else f"resume={newest} would go on with one that has"
    return (
        f"resume={resume}: there is no run of '{name}' with a checkpoint to go on from"
        f"{problem(pointer)}; {other or 'start one without resume'}"
    )


def _instead(damaged: Path) -> str:
    """Write what to do about a damaged checkpoint."""
    other = whole_before(damaged)
    if other is not None:
        return f"resume={other} goes on from another one that is intact"
    if check_sums(damaged, but=(TRAINER_STATE,)) is None:
        return f"its weights are intact: start a new run from model.path={damaged}"
    return "copy it again from where it was made, or start again without resume"


def _compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Compare a run's run.json with the present resolved config.

    Returns:
        The differences that change what the run computes, and those that do not; each is a text
        with the key and both values.
    """
    then = before["config"]
    old_places, new_places = leaves(then), leaves(now)
    moved = {
        str(old_places[key]): str(new_places[key])
        for key in sorted(old_places.keys() & new_places.keys())
        if _is_any(key, PLACES)
    }
    changed: list[str] = []
    harmless: list[str] = []
    for key, (old, new) in differing(then, now).items():
        is_harmless = _is_any(key, MAY_DIFFER) or _relocated(old, moved) == new
        (harmless if is_harmless else changed).append(f"{key} ({old!r} then, {new!r} now)")
    return changed, harmless


def _is_any(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _relocated(value: Any, moved: Mapping[str, str]) -> Any:
    """Replace folders that have moved in the paths of a value."""
    if isinstance(value, list):
        return [_relocated(item, moved) for item in value]
    if isinstance(value, str):
        for old in sorted(moved, key=len, reverse=True):
            if value == old or value.startswith(f"{old}/"):
                return moved[old] + value[len(old) :]
    return value
