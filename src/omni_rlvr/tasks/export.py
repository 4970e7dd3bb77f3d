"""The task ``export``: merge adapters into their base and write all weights as one checkpoint."""

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
    """The inputs of ``run``."""

    place: Place
    task: ExportTask
    policy: Policy


def build(composed: Composed) -> ExportInputs:
    """Check that the folder is free, and load the policy."""
    check_target(Path(composed.task.to))
    return ExportInputs(composed.place, composed.task, load(composed.cfg.model))


def check_target(to: Path) -> None:
    """Check that the folder does not exist yet.

    Raises:
        UserError: It exists.
    """
    if to.exists():
        raise UserError(f"task.to={to} is there already; give a folder that does not exist")


def write_merged(policy: Policy, to: Path, layout: str) -> None:
    """Merge a policy's adapters and write it; the folder is written completely or not at all.

    Args:
        policy: A loaded policy, whose adapters are merged in place.
        to: The folder to make.
        layout: "omni" for what ``load_policy`` reads, "humanomni" for what HumanOmni's code reads.

    Raises:
        UserError: The folder exists, cannot be written, or the model has no such layout.
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


def run(inputs: ExportInputs) -> None:
    """Write the merged policy to ``task.to`` in the layout ``task.layout``."""
    with recorded(inputs.place, device="cpu") as record:
        write_merged(inputs.policy, Path(inputs.task.to), inputs.task.layout)
        record.finish("finished")
    print(f"checkpoint: {inputs.task.to}")
