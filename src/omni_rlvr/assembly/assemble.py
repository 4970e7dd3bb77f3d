"""Prepare the build of a task: choose its devices, seed its random numbers, collect its config.

Whatever needs no file is checked here first. The ``build`` of a task continues from the fast to the
slow: it reads annotations before it loads a model, and scores gold answers before it trains.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from omni_rlvr import distributed
from omni_rlvr.assembly.composed import Composed, Place
from omni_rlvr.assembly.policies import base_to_write
from omni_rlvr.config.tasks import TrainTask
from omni_rlvr.training.devices import device_numbers
from omni_rlvr.types import UserError, require


def assemble(
    cfg: DictConfig, place: Place, typed: Mapping[str, Any], *, several_devices: bool
) -> Composed:
    """Collect the values that the ``build`` of a task starts from, and seed the random numbers.

    Args:
        cfg: The composed config.
        place: The folder of the run, with the resolved config.
        typed: The typed groups, see ``check``.
        several_devices: Whether the task can run on several devices.

    Raises:
        UserError: The devices do not exist or do not fit, or ``model.base`` cannot be written.
    """
    devices = _devices(place.config, typed) if several_devices else [0]
    pl.seed_everything(place.config["seed"], workers=True, verbose=False)
    base = base_to_write(cfg, typed, place.run_dir)
    return Composed(cfg=cfg, place=place, devices=devices, base=base, **typed)


def _devices(config: Mapping[str, Any], typed: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the task's devices, and check that it can be split over them."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError(
            f"torchrun: omni-rlvr starts a process a device itself: omni-rlvr ... trainer.devices="
            f"{os.environ['WORLD_SIZE']}"
        )
    trainer, batch_size = config["trainer"], typed["stage"].batch_size
    devices = device_numbers(trainer["accelerator"], trainer["devices"])
    if distributed.num_ranks() > 1:
        require(
            len(devices) == distributed.num_ranks(),
            "trainer.devices",
            trainer["devices"],
            f"{distributed.num_ranks()}, the number of processes that were started",
        )
    if isinstance(typed["task"], TrainTask) and batch_size % len(devices):
        raise UserError(
            f"stage.batch_size={batch_size} cannot be split over trainer.devices="
            f"{trainer['devices']}: {len(devices)} devices get equal numbers of prompts, so give a "
            f"batch size that {len(devices)} divides, or another number of devices"
        )
    return devices
