"""Writes a checkpoint that stands alone: adapters merged into their base, all weights in it."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from omni_rlvr.assembly.assemble import check_target
from omni_rlvr.assembly.parts import ExportParts
from omni_rlvr.folders import whole_folder
from omni_rlvr.models.adapters.lora import merge
from omni_rlvr.models.families import family_of
from omni_rlvr.models.policy import Policy
from omni_rlvr.tasks.lifecycle import recorded
from omni_rlvr.types import UserError


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


def export_checkpoint(parts: ExportParts) -> None:
    """Writes the policy, merged, to ``task.to`` in the layout that was asked for."""
    with recorded(parts.place, device="cpu") as record:
        write_merged(parts.policy, Path(parts.task.to), parts.task.layout)
        record.finish("finished")
    print(f"checkpoint: {parts.task.to}")
