"""Write and read checkpoints; a killed process or a full disk never loses the last good one.

A checkpoint is a folder ``checkpoints/step_000150`` with weights, config, processor and trainer
state. It is written under another name and renamed when it is complete. Then the link
``checkpoint`` is moved to it in one step, and all but the last few checkpoints are removed.
"""

from __future__ import annotations

import logging
import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import torch

from omni_rlvr.folders import whole_folder
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.trained_on import write_trained_on
from omni_rlvr.pointers import (
    CHECKPOINT,
    TRAINER_STATE,
    checkpoints_of,
    follow,
    point_to,
    step_folder,
    step_of,
)
from omni_rlvr.training.model_card import write_card
from omni_rlvr.types import UserError

log = logging.getLogger(__name__)


def save_checkpoint(run: Path, policy: Policy, state: dict, *, step: int, keep: int) -> Path:
    """Save a policy and the trainer's state as the run's current checkpoint.

    Args:
        run: the run's folder.
        policy: the policy to save.
        state: optimizer, schedule and whatever else resuming needs; tensors and plain values only.
        step: number of steps done; names the folder.
        keep: number of checkpoints to keep, including this one; 1 or more.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: the checkpoint could not be written; the earlier ones are still there.
    """
    folder = step_folder(run, step)
    if follow(run / CHECKPOINT).resolve() == folder.resolve():
        # the same step again, after a resume: the good folder must survive a write that fails
        folder = folder.with_name(f"{folder.name}_again")
    try:
        with whole_folder(folder, sums=True) as partial:
            policy.save(partial)
            write_trained_on(partial, policy.trained_on)
            write_card(partial, policy, run, step=step, path=folder.name)
            # given a path, torch.save would hide the system's error behind one of its own
            with (partial / TRAINER_STATE).open("wb") as file:
                torch.save({**state, "step": step, "rng": _rng_state()}, file)
        point_to(run / CHECKPOINT, folder)
    except (OSError, RuntimeError) as error:
        raise UserError(f"cannot write checkpoint {folder}: {error}; {last_good(run)}") from error
    _prune(folder, step, keep)
    return folder


def _prune(newest: Path, step: int, keep: int) -> None:
    """Remove all but the last ``keep`` checkpoints, and those of later steps, which are redone."""
    earlier = [f for f in checkpoints_of(newest.parent.parent) if (step_of(f) or 0) < step]
    kept = {newest, *earlier[: keep - 1]}
    for other in newest.parent.iterdir():
        if other not in kept:
            shutil.rmtree(other, ignore_errors=True)


def restore_link(run: Path, step: int) -> None:
    """Move a folder that stands in place of the link ``checkpoint``, and make the link again.

    Archives, and copies that follow links, turn the link into such a folder.

    Args:
        run: the run's folder.
        step: number of steps of the checkpoint in that folder.

    Raises:
        UserError: the folder holds no checkpoint.
    """
    pointer = run / CHECKPOINT
    if pointer.is_symlink() or not pointer.is_dir():
        return
    if not (pointer / TRAINER_STATE).exists():
        raise UserError(f"{pointer} is in the way and is no checkpoint; move it elsewhere")
    folder = step_folder(run, step)
    folder = folder.with_name(f"{folder.name}_copied")
    folder.parent.mkdir(exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    pointer.rename(folder)
    point_to(pointer, folder)
    log.warning("%s was a folder instead of a link (a copy?); moved it to %s", pointer, folder)


def load_state(checkpoint: Path) -> dict:
    """Read the trainer's state of a checkpoint and set the random number generators."""
    path = checkpoint / TRAINER_STATE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = next(iter(str(error).splitlines()), "the file is cut short")
        raise UserError(
            f"resume: {path} cannot be read ({reason}); "
            f"start a new run from model.path={path.parent}"
        ) from error
    rng = state["rng"]
    torch.set_rng_state(rng["torch"])
    random.setstate((rng["python"][0], tuple(rng["python"][1]), rng["python"][2]))
    np.random.set_state((rng["numpy"][0], np.array(rng["numpy"][1], np.uint32), *rng["numpy"][2:]))
    return state


def _rng_state() -> dict:
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "python": [version, list(numbers), gauss],
        "numpy": [name, np.asarray(keys).tolist(), *rest],
    }


def last_good(run: Path) -> str:
    """Name the checkpoint of a run that can be relied on, for an error message."""
    last = follow(run / CHECKPOINT)
    return f"the last good one is {last.resolve()}" if last.is_dir() else "there is none before it"
