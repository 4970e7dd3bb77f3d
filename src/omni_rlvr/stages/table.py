"""The table of stages: name -> config dataclass, and the module that builds the stage.

The module is imported only when its stage is chosen, so that ``--help`` and the error for a typo do
not load torch. The dataclass says whether a stage samples and whether it needs a reference.
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
    """The config class and the module of a stage."""

    config: type[stage.LoopConfig]
    """Its Hydra schema."""
    module: str
    """Name of the module that defines ``build(config, given) -> Stage``."""

    def build(self, config: stage.LoopConfig, given: Given) -> Stage:
        """Import the stage's file and build the stage."""
        return importlib.import_module(self.module).build(config, given)


STAGES = {
    "sft": StageRow(stage.SftConfig, "omni_rlvr.stages.sft"),
    "grpo": StageRow(stage.GrpoConfig, "omni_rlvr.stages.grpo"),
}


def name_of(config: stage.LoopConfig) -> str:
    """Return the name of the stage that a config belongs to."""
    return next(name for name, row in STAGES.items() if row.config is type(config))
