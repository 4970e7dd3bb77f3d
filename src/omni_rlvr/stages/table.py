"""The stages: one row each, name -> what a person tunes of it and what builds it.

A stage's file is imported once the stage is chosen, so that ``--help`` and a typo answer without
torch. Whether a stage samples, and whether it needs a reference, its dataclass says.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omni_rlvr.config import stage

if TYPE_CHECKING:
    from omni_rlvr.stages.base import Given, Stage


@dataclass(frozen=True)
class StageRow:
    """A stage's place in the source."""

    config: type[stage.LoopConfig]
    """Its Hydra schema."""
    module: str
    """Holds ``build(config, given) -> Stage``."""

    def build(self, config: stage.LoopConfig, given: Given) -> Stage:
        """Import the stage's file and build the stage."""
        return importlib.import_module(self.module).build(config, given)


STAGES = {
    "sft": StageRow(stage.SftConfig, "omni_rlvr.stages.sft"),
    "grpo": StageRow(stage.GrpoConfig, "omni_rlvr.stages.grpo"),
}


def name_of(config: stage.LoopConfig) -> str:
    """Name the stage that a config is of."""
    return next(name for name, row in STAGES.items() if row.config is type(config))
