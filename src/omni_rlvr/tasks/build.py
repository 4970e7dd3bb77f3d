"""Turn a composed config into a task that is ready to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from omni_rlvr import stopping
from omni_rlvr.assembly.assemble import assemble
from omni_rlvr.assembly.composed import Place
from omni_rlvr.assembly.composing.latest import settle_resume
from omni_rlvr.assembly.instantiate import check
from omni_rlvr.pointers import run_of
from omni_rlvr.tasks.launch import Launch, launch
from omni_rlvr.tasks.start import Start, run_from_start, start_of
from omni_rlvr.tasks.table import row_of


@dataclass(frozen=True)
class Ready:
    """A task whose inputs are checked and loaded."""

    inputs: Any
    """The value that the task's ``build`` returned."""
    do: Callable[[Any], Any]
    """The task's ``run``."""

    def run(self) -> Any:
        """Run the task.

        Raises:
            UserError: Something is wrong that the user can correct.
        """
        return self.do(self.inputs)


def build(cfg: DictConfig, run_dir: Path, latest: Path | None) -> Ready:
    """Build a task, with the run that it starts from (``task.start_from``) before it.

    Args:
        cfg: The composed config.
        run_dir: The folder of the run.
        latest: The link that the run points at itself when it has results, or None.

    Raises:
        UserError: The config, the annotations or the checkpoint are wrong.
    """
    with stopping.without_exit():
        start = start_of(cfg)
        if start is None:
            return build_one(cfg, run_dir, latest)
    started, start_cfg, start_dir = start
    inputs = Start(
        start_dir,
        lambda: build_one(start_cfg, start_dir, None),
        lambda: build_one(started, run_dir, latest),
    )
    return Ready(inputs, run_from_start)


def build_one(cfg: DictConfig, run_dir: Path, latest: Path | None) -> Ready:
    """Build a task whose starting checkpoint exists; see ``build``.

    For a task on several devices, this checks what needs no model and returns its launch. Each of
    the launched processes calls this function again to build the task itself.
    """
    settle_resume(cfg, run_dir.parent)
    config, typed = check(cfg)
    row = row_of(typed["task"])
    place = Place(run_dir if cfg.resume is None else run_of(run_dir), latest, config)
    composed = assemble(cfg, place, typed, several_devices=row.several_devices)
    task = row.load()
    inputs = task.build(composed)
    return Ready(inputs, launch if isinstance(inputs, Launch) else task.run)
