"""Prepare the build of a task: choose its devices, seed its random numbers, collect its config.

All checks that need no file come first, here. The ``build`` of a task then goes from fast to slow:
it reads annotations before it loads a model, and scores gold answers before it trains.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig

from omni_rlvr import distributed
from omni_rlvr.assembly.composed import Composed, Place
from omni_rlvr.assembly.policies import base_to_write, check_there
from omni_rlvr.config.tasks import PlanTask, TrainTask
from omni_rlvr.ranks import environment, rendezvous
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
        UserError: The devices do not exist or do not fit, there is no ``model.path``, or
            ``model.base`` cannot be written.
    """
    if several_devices:
        check_there(cfg.model, Path(place.config["paths"]["output_root"]))
        devices, launches = _devices(place.config, typed)
    else:
        devices, launches = [0], False
        _require_alone(place.config["task"]["name"])
        if not isinstance(typed["task"], PlanTask):  # task=plan reads trainer.devices
            _say_alone(place.config)
    pl.seed_everything(place.config["seed"], workers=True, verbose=False)
    base = base_to_write(cfg, typed, place.run_dir)
    return Composed(
        cfg=cfg,
        place=place,
        devices=devices,
        launches=launches,
        base=base,
        policy=None,
        **typed,
    )


def _devices(config: Mapping[str, Any], typed: Mapping[str, Any]) -> tuple[list[int], bool]:
    """Choose the task's devices on this machine, and check that a batch can be split over all.

    Returns:
        The indices of the devices, and whether a process must be launched for each of them.
    """
    trainer, batch_size = config["trainer"], typed["stage"].batch_size
    devices, num_nodes = device_numbers(trainer["accelerator"], trainer["devices"]), _nodes(trainer)
    num_ranks = len(devices) * num_nodes
    launches = _launches(len(devices), num_nodes)
    if isinstance(typed["task"], TrainTask) and batch_size % num_ranks:
        on = f" and trainer.num_nodes={num_nodes}" if num_nodes > 1 else ""
        raise UserError(
            f"stage.batch_size={batch_size} cannot be split over trainer.devices="
            f"{trainer['devices']}{on}: {num_ranks} devices get equal numbers of prompts, so give "
            f"a batch size that {num_ranks} divides, or another number of devices"
        )
    if not launches:
        rendezvous.init_process_group()
    return devices, launches


def _nodes(trainer: Mapping[str, Any]) -> int:
    num_nodes = trainer.get("num_nodes", 1)
    wanted = "a number of machines, 1 or more"
    is_number = isinstance(num_nodes, int) and not isinstance(num_nodes, bool)
    require(is_number and num_nodes >= 1, "trainer.num_nodes", num_nodes, wanted)
    return num_nodes


def _launches(num_devices: int, num_nodes: int) -> bool:
    """Tell whether this process must launch one for each device; else it is one of the ranks.

    Raises:
        UserError: The processes that were started are neither all ranks nor one per machine.
    """
    how = rendezvous.started()
    if how is None and (unmet := environment.of_environment(os.environ)) is not None:
        raise UserError(
            f"{unmet.world_size} processes were started by {unmet.by}, but not by the command "
            "omni-rlvr itself; the launcher of a sweep starts one for each run and machine "
            "(hydra.launcher.tasks_per_node=1), and that process starts those of trainer.devices"
        )
    num_started = distributed.num_ranks() if how is None else how.world_size
    if num_started == num_devices * num_nodes:
        return False
    if num_started == num_nodes:
        return True
    if num_started == 1:
        raise UserError(
            f"trainer.num_nodes={num_nodes}: this command was started alone; start it on each "
            "machine, with torchrun, srun or a PyTorchJob (docs/how-to/scale.md)"
        )
    by = "processes were started" if how is None else f"were started by {how.by}"
    raise UserError(
        f"trainer.devices={num_devices} x trainer.num_nodes={num_nodes} is "
        f"{num_devices * num_nodes} processes, but {num_started} {by}; make them equal, or start "
        "one process per machine"
    )


def _require_alone(task: str) -> None:
    """Refuse to run a task of one process in several processes.

    Raises:
        UserError: This process is one of several.
    """
    how = rendezvous.started()
    if how is not None and how.world_size > 1:
        raise UserError(
            f"task={task} runs in one process, but {how.world_size} were started by {how.by}; "
            f"start it without {how.by}"
        )


def _say_alone(config: Mapping[str, Any]) -> None:
    """Print that a task uses one process, if several devices are asked for."""
    asked = config["trainer"]["devices"]
    num_asked = len(asked) if isinstance(asked, list) else int(asked) if str(asked).isdigit() else 1
    if num_asked > 1:
        name = config["task"]["name"]
        print(f"task={name} runs in one process: trainer.devices={asked} changes nothing here")
