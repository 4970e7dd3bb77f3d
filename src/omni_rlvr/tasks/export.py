"""Writes a checkpoint that stands alone: adapters merged into their base, all weights in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from omni_rlvr.assembly.composed import Composed, Place
from omni_rlvr.assembly.policies import load
from omni_rlvr.config.tasks import ExportTask
from omni_rlvr.folders import whole_folder
from omni_rlvr.models.adapters.lora import merge
from omni_rlvr.models.families import family_of
from omni_rlvr.models.policy import Policy
from omni_rlvr.tasks.lifecycle import recorded
from omni_rlvr.types import UserError


@dataclass(frozen=True)
class ExportInputs:
    """All that writing a merged checkpoint needs."""

    place: Place
    task: ExportTask
    policy: Policy


def build(composed: Composed) -> ExportInputs:
    """Check that the folder is free, and load the policy."""
    check_target(Path(composed.task.to))
    return ExportInputs(composed.place, composed.task, load(composed.cfg.model))


def check_target(to: Path) -> None:
    """Refuse to write over anything.

    Raises:
        UserError: ``to`` is there already.
    """
    if to.exists():
        raise UserError(f"task.to={to} is there already; give a folder that does not exist")


def write_merged(policy: Policy, to: Path, layout: str) -> None:
    """Merges a policy's adapters and writes it; the folder is there whole, or not at all.

    Args:
        policy: a loaded policy; its adapters are gone afterwards.
        to: the folder to make.
        layout: "omni" for what ``load_policy`` reads, "humanomni" for what HumanOmni's code reads.

    Raises:
        UserError: the folder is there, cannot be written, or the model has no such layout.
    """
    check_target(to)
    assert isinstance(policy, nn.Module)
    merge(policy)
    policy.adapter_checkpoint = None
    try:
        with whole_folder(to, sums=True) as partial:
            family_of(policy.config.model_type).export(policy, partial, layout)
    except OSError as error:
        raise UserError(f"task.to={to} cannot be written: {error}") from error


def run(parts: ExportInputs) -> None:
    """Writes the policy, merged, to ``task.to`` in the layout that was asked for."""
    with recorded(parts.place, device="cpu") as record:
        write_merged(parts.policy, Path(parts.task.to), parts.task.layout)
        record.finish("finished")
    print(f"checkpoint: {parts.task.to}")
