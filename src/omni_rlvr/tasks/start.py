"""Train the run whose checkpoint other runs start from (``task.start_from``), only once.

Runs of a sweep need the same cold start. The first run trains it, under a lock; the others wait for
it, or find it finished.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from omni_rlvr.assembly.compare import computes_the_same
from omni_rlvr.assembly.instantiate import check, compose_step
from omni_rlvr.lock import FolderInUse, FolderLock
from omni_rlvr.pointers import CHECKPOINT
from omni_rlvr.ranks import rendezvous
from omni_rlvr.record import finished_config, identity

if TYPE_CHECKING:
    from omni_rlvr.tasks.build import Ready

LOOK_EVERY_S = 1.0
"""Seconds between looks at a lock that another run holds."""


@dataclass(frozen=True)
class Start:
    """A run and the run that it starts from, neither of them built yet."""

    run_dir: Path
    """The folder of the run that it starts from."""
    build_start: Callable[[], Ready]
    build: Callable[[], Ready]


def start_of(cfg: DictConfig) -> tuple[DictConfig, DictConfig, Path] | None:
    """Compose the config of the run whose checkpoint a run is to start from.

    Returns:
        The config with ``model.path`` set to that checkpoint, that run's config and its folder;
        None if the run starts from its own ``model.path``.
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
    """Resolve the config of a run as it will be in its run.json."""
    start = start_of(cfg)
    return check(cfg if start is None else start[0])[0]


def _shared(config: dict[str, Any]) -> Path:
    """Return the folder of a start that several runs share.

    It is the folder in which a run with the same config has finished, also one of an earlier
    version of this package, or else the folder in which to make it.
    """
    home = Path(config["paths"]["output_root"]) / config["name"] / "shared"
    own = home / identity(config)
    for folder in [own, *(path.parent for path in sorted(home.glob("*/run.json")))]:
        before = finished_config(folder)
        if before is not None and computes_the_same(before, config):
            return folder
    return own


def run_from_start(inputs: Start) -> None:
    """Train the start unless it is finished, then run what starts from it."""
    folder = inputs.run_dir
    with locked(folder) if rendezvous.is_first() else contextlib.nullcontext():
        if rendezvous.broadcast(lambda: str(finished_config(folder) is None)) == "True":
            print(f"start: {folder} is made first; other runs will find it there", flush=True)
            inputs.build_start().run()
        else:
            print(f"start: {folder}", flush=True)
    inputs.build().run()


def locked(folder: Path) -> FolderLock:
    """Wait until no other run has the lock of a folder, and take it."""
    folder.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        try:
            return FolderLock(folder, "it will be found there")
        except FolderInUse as held:
            if not told:
                print(f"start: another run is making {folder}; waiting for it ({held})", flush=True)
            told = True
            time.sleep(LOOK_EVERY_S)
