"""The run whose checkpoint another run starts from, composed but not built."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from omni_rlvr.assembly.compare import computes_the_same
from omni_rlvr.assembly.instantiate import check, compose_step
from omni_rlvr.pointers import CHECKPOINT
from omni_rlvr.record import finished_config, identity


def start_of(cfg: DictConfig) -> tuple[DictConfig, DictConfig, Path] | None:
    """Composes the run whose checkpoint a run is to start from.

    Returns:
        The config with ``model.path`` set to that checkpoint, that run's config and its folder; or
        None: the run starts from the ``model.path`` it has.
    """
    start = check(cfg)[1]["task"].start_from if cfg.task.name == "train" else None
    if start is None or not start.overrides or start.num_examples == 0:
        return None
    limit = f"dataset.max_train_examples={start.num_examples}"
    start_cfg = compose_step([*start.overrides, *([limit] if start.num_examples > 0 else [])])
    config, _ = check(start_cfg)
    folder = _shared(config)
    started = copy.deepcopy(cfg)
    started.model.path = str(folder / CHECKPOINT)
    return started, start_cfg, folder


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Resolves the config of a run as it will stand in its run.json."""
    start = start_of(cfg)
    return check(cfg if start is None else start[0])[0]


def _shared(config: dict[str, Any]) -> Path:
    """Return the folder of a start that several runs share.

    It is where one of the same config has finished, maybe of an earlier version, or else where it
    is to be made.
    """
    home = Path(config["paths"]["output_root"]) / config["name"] / "shared"
    own = home / identity(config)
    for folder in [own, *(path.parent for path in sorted(home.glob("*/run.json")))]:
        before = finished_config(folder)
        if before is not None and computes_the_same(before, config):
            return folder
    return own
