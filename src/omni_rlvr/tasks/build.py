"""From a composed config to a task that is ready to run, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from omni_rlvr import stopping
from omni_rlvr.assembly.assemble import assemble
from omni_rlvr.assembly.composed import Place
from omni_rlvr.assembly.composing.latest import stopped_at_the_start
from omni_rlvr.assembly.instantiate import check
from omni_rlvr.pointers import LATEST, run_of
from omni_rlvr.tasks.launch.launcher import Launch, launch
from omni_rlvr.tasks.start import Start, run_from_start, start_of
from omni_rlvr.tasks.table import row_of


@dataclass(frozen=True)
class Ready:
    """A task whose inputs are checked, read and loaded."""

    inputs: Any
    """What its ``build`` made."""
    do: Callable[[Any], Any]
    """Its ``run``."""

    def run(self) -> Any:
        """Do the task.

        Raises:
            UserError: something that a user can mend.
        """
        return self.do(self.inputs)


def build(cfg: DictConfig, run_dir: Path, latest: Path | None) -> Ready:
    """Build a task, and before it the run that it starts from (``task.start_from``).

    Args:
        cfg: the composed config.
        run_dir: where the run writes.
        latest: the link to move when the run has something to offer, or None.

    Raises:
        UserError: anything about the config, the annotations or the checkpoint that is wrong.
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
    """Build a task that starts from what is there; see ``build``.

    A task for several devices is checked as far as a model is not needed, and then handed on to be
    launched; in each of the processes that are launched, this builds the task itself.
    """
    if cfg.resume == LATEST and (stopped := stopped_at_the_start(run_dir.parent)) is not None:
        print(f"resume={LATEST}: {stopped} was stopped before its first checkpoint; starts anew")
        cfg.resume = None
    config, typed = check(cfg)
    row = row_of(typed["task"])
    place = Place(run_dir if cfg.resume is None else run_of(run_dir), latest, config)
    composed = assemble(cfg, place, typed, several_devices=row.several_devices)
    task = row.load()
    inputs = task.build(composed)
    return Ready(inputs, launch if isinstance(inputs, Launch) else task.run)
