"""Two ranks by forking the test's process, which has torch; ``tasks/launch.py`` starts others."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from forks import forked
from torch import distributed

from omni_rlvr.tasks.build import build_one

TWO = "trainer.devices=2"


def in_ranks(folder: Path, task: Callable[[], object], num_ranks: int = 2) -> None:
    """Does a task in several processes that know each other; one that fails is an error."""
    folder.mkdir(parents=True, exist_ok=True)
    ranks = [partial(_do, folder, task, rank, num_ranks) for rank in range(num_ranks)]
    assert forked(ranks) == [0] * num_ranks


def _do(folder: Path, task: Callable[[], object], rank: int, num_ranks: int) -> None:
    meeting = f"file://{folder}/meeting"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=num_ranks)
    if rank > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 (until the process ends)
    task()


def run_in_ranks(runner, *overrides: str) -> Path:
    """Runs overrides on two ranks, as launched; returns the run's folder."""
    cfg = runner.compose(*overrides, TWO)
    folder = runner.folder(cfg)
    meeting = runner.root.parent / f"meeting_{len(list(runner.root.parent.glob('meeting_*')))}"
    in_ranks(meeting, lambda: build_one(cfg, folder, folder.parent / "latest").run())
    return folder
