"""The steps of a pipeline: composed and checked all at once, before the first of them begins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from omni_rlvr.assembly.composing.suggestions import hydras_words
from omni_rlvr.assembly.instantiate import check, compose_step
from omni_rlvr.config.root import PipelineTask
from omni_rlvr.pointers import CHECKPOINT
from omni_rlvr.types import UserError, require

_STEP = re.compile(r"(?<!\$)\{([\w-]+)\}")
"""``{step}`` in an override; braces that hold anything else are Hydra's."""


def check_steps(task: PipelineTask, run_dir: Path) -> None:
    """Compose and check every step.

    Raises:
        UserError: a step cannot be composed, or is to start from one that is not before it.
    """
    known: list[str] = []
    for name, overrides in task.stages.items():
        _check_step(task, overrides, run_dir, f"task.stages.{name}", known)
        known.append(name)
    for group, steps in (("evaluate", task.evaluate), ("modality", task.modality)):
        for name, overrides in steps.items():
            _check_step(task, overrides, run_dir, f"task.{group}.{name}", known)


def compose_filled(task: PipelineTask, overrides: Sequence[str], run_dir: Path) -> DictConfig:
    """Compose a step, with the checkpoint of a stage in place of its name in braces."""
    filled = [_STEP.sub(lambda m: str(run_dir / m[1] / CHECKPOINT), text) for text in overrides]
    return compose_step([*task.shared, *filled])


def _check_step(
    task: PipelineTask, overrides: Sequence[str], run_dir: Path, key: str, known: Sequence[str]
) -> None:
    for text in overrides:
        for name in _STEP.findall(text):
            if name not in known:
                before = ", ".join(known) or "none"
                raise UserError(f"{key}: {text}: there is no step {name!r} before it ({before} is)")
    try:
        config, _ = check(compose_filled(task, overrides, run_dir))
    except (HydraException, OmegaConfBaseException, UserError, ValueError) as error:
        text = " ".join(f"{error} {error.__cause__ or ''}".split())
        raise UserError(f"{key}: {hydras_words(text, [*task.shared, *overrides])}") from error
    wanted = "train" if key.startswith("task.stages.") else "evaluate"
    require(config["task"]["name"] == wanted, f"{key}: task", config["task"]["name"], wanted)
