"""Writes a checkpoint that stands alone: adapters merged into their base, all weights in it."""

from __future__ import annotations

from pathlib import Path

from omni_rlvr.folders import whole_folder
from omni_rlvr.models.export import export_published
from omni_rlvr.models.lora import merge
from omni_rlvr.models.omni import OmniModel
from omni_rlvr.models.policy import Policy
from omni_rlvr.types import UserError


def check_target(to: Path) -> None:
    """Refuses to write over anything.

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
    assert isinstance(policy, OmniModel)
    merge(policy)
    policy.delta = None
    try:
        with whole_folder(to, sums=True) as partial:
            if layout == "humanomni":
                export_published(policy, partial)
            else:
                policy.save(partial)
    except OSError as error:
        raise UserError(f"task.to={to} cannot be written: {error}") from error
