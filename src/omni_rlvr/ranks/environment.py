"""How this process was started: alone, or as one of several.

torchrun, srun and PyTorchJob (Kubeflow, PAI-DLC) set environment variables that say so.
``tasks/launch.py`` starts its processes with torch elastic, the engine of torchrun.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from omni_rlvr.types import UserError

TORCHRUN = "torchrun"


@dataclass(frozen=True)
class Started:
    """How this process was started as one of several."""

    rank: int
    world_size: int
    local_rank: int
    host: str
    """The machine of rank 0, to which the ranks connect."""
    port: int
    by: str
    """Name of the launcher, for messages."""


def of_environment(env: Mapping[str, str]) -> Started | None:
    """Read from the environment how this process was started; None if it was started alone.

    Raises:
        UserError: A variable that torchrun or a PyTorchJob sets is missing, or is no whole number.
    """
    if "TORCHELASTIC_RUN_ID" in env:
        return _of_variables(env, TORCHRUN)
    if "SLURM_PROCID" in env and env.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return _of_variables(_slurm(env), "srun")  # a step of srun, not the script of sbatch
    if "RANK" in env and env.get("WORLD_SIZE", "1") != "1":
        return _of_variables(env, "RANK and WORLD_SIZE")
    return None


def _slurm(env: Mapping[str, str]) -> dict[str, str]:
    """Translate Slurm's variables into those of torchrun."""
    # the first of rack[0-1]node[07-09,12],gpu3 is rack0node07
    found = re.match(r"(?:[^,\s\[]|\[[^\]]*\])*", env["SLURM_STEP_NODELIST"])
    assert found is not None  # the pattern also matches the empty string
    host = re.sub(r"\[(\d+)[^\]]*\]", r"\1", found[0])
    # steps of one job that run side by side on one machine need a port each
    port = (int(env["SLURM_JOB_ID"][-4:]) + 37 * int(env.get("SLURM_STEP_ID", "0"))) % 10_000
    return {
        "RANK": env["SLURM_PROCID"],
        "WORLD_SIZE": env["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "MASTER_ADDR": env.get("MASTER_ADDR", host),
        "MASTER_PORT": env.get("MASTER_PORT", str(15_000 + port)),
    }


def _of_variables(env: Mapping[str, str], by: str) -> Started:
    """Read the variables that torchrun and a PyTorchJob set."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in names if name not in env]:
        raise UserError(
            f"the environment says that this is one process of several ({by}), but "
            f"{', '.join(missing)} is not set; set {', '.join(names)}, or unset RANK and WORLD_SIZE"
        )
    values = {"LOCAL_RANK": "0", **env}
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "LOCAL_RANK"):
        if not values[name].isdigit():
            raise UserError(f"the environment has {name}={values[name]!r}: give a whole number")
    rank, world_size = int(values["RANK"]), int(values["WORLD_SIZE"])
    if rank >= world_size:
        raise UserError(f"the environment has RANK={rank} and WORLD_SIZE={world_size}: ranks are "
                        f"numbered from 0 to {world_size - 1}")  # fmt: skip
    local_rank, port = int(values["LOCAL_RANK"]), int(values["MASTER_PORT"])
    return Started(rank, world_size, local_rank, values["MASTER_ADDR"], port, by)
