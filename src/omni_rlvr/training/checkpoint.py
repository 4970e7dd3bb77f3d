"""Writes and reads checkpoints so that a kill or a full disk never costs the last good one.

A checkpoint is a folder ``checkpoints/step_000150`` (weights, config, processor, trainer state),
written under another name and renamed when whole; the link ``checkpoint`` is then moved to it in
one step, and older folders are removed.
"""

from __future__ import annotations

import os
import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import torch

from omni_rlvr.models.policy import Policy
from omni_rlvr.record import point_to
from omni_rlvr.types import UserError

TRAINER_STATE = "trainer_state.pt"


def save_checkpoint(run: Path, policy: Policy, state: dict, *, step: int) -> Path:
    """Saves a policy and the trainer's state as the run's current checkpoint.

    Args:
        run: the run's folder.
        policy: what is saved.
        state: optimizer, schedule and whatever else resuming needs; tensors and plain values only.
        step: names the folder.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: it could not be written; the checkpoint before is still there.
    """
    folder = run / "checkpoints" / f"step_{step:06d}"
    if (run / "checkpoint").resolve() == folder.resolve():  # the same step again, after a resume:
        folder = folder.with_name(f"{folder.name}_again")  # the good one must outlive this write
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        policy.save(partial)
        torch.save({**state, "step": step, "rng": _rng_state()}, partial / TRAINER_STATE)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
        point_to(run / "checkpoint", folder)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"cannot write checkpoint {folder}: {error}; {last_good(run)}") from error
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def load_state(run: Path) -> dict:
    """Reads the trainer's state of a run's checkpoint and sets the random number generators."""
    path = run / "checkpoint" / TRAINER_STATE
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
    """Names the last good checkpoint of a run, for a message."""
    link = run / "checkpoint"
    return f"the last good one is {link.resolve()}" if link.exists() else "there is none before it"
