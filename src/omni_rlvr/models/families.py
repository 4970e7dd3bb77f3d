"""The model families: which folder of this package reads which ``model_type``.

A family is one folder. Its ``family.py`` offers what ``Family`` lists, and everything outside the
folder asks for that by the ``model_type`` of a checkpoint's config.json or of a policy's config. A
new family is a folder and a row here; a folder is imported when one of its models is first met.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.models.policy import Policy

if TYPE_CHECKING:  # that file asks this one for the family that joins parts
    from omni_rlvr.models.loading.from_parts import Parts

COMPOSED = "omni_rlvr"
"""The ``model_type`` of models that are joined from parts, the tiny one among them."""
FAMILIES = {
    COMPOSED: "composed",
    "HumanOmni_qwen2": "composed",  # as R1-Omni and HumanOmni were published
}
"""``model_type`` -> folder under ``models/``."""


class Family(Protocol):
    """What the ``family.py`` of a folder offers."""

    def load(
        self,
        folder: Path,
        dtype: torch.dtype,
        options: LoadOptions,
        instruction: str | None,
    ) -> Policy:
        """Load a whole checkpoint, whose config.json names one of the family's types.

        Args:
            folder: The checkpoint.
            dtype: Of all weights.
            options: What is changed of it.
            instruction: Text after the question; None keeps what it was trained with.

        Returns:
            The policy with its processor, in eval mode, on the CPU, all of it frozen.

        Raises:
            UserError: The folder cannot be read, or its weights do not fit its config.
        """

    def tiny(self, seed: int) -> Policy:
        """Build a small policy from nothing, with random weights, for tests."""

    def compose(
        self, parts: Parts, dtype: torch.dtype, options: LoadOptions, instruction: str | None
    ) -> Policy:
        """Join parts that were trained apart to a new policy.

        Raises:
            UserError: A part cannot be read, or the family's models are not joined from parts.
        """

    def put_processor(
        self, policy: Policy, folder: Path, options: LoadOptions, instruction: str | None
    ) -> None:
        """Give a policy the processor that an adapter checkpoint was saved with."""

    def sound_window_s(self, folder: Path | None) -> float:
        """Read how many seconds of sound a checkpoint's model takes, without loading it.

        Args:
            folder: The checkpoint; None, or a folder without settings, gives the family's own.
        """

    def own_name(self, name: str) -> str:
        """Name a weight as this package does, if another layout's name is known; else keep it."""

    def export(self, policy: Policy, folder: Path, layout: str) -> None:
        """Write a policy without adapters.

        Args:
            policy: What is written.
            folder: An empty folder.
            layout: "omni" for what ``load`` reads, or the name of a layout that others read.

        Raises:
            UserError: The policy cannot be written in that layout.
            OSError: The folder cannot be written.
        """


def family_of(model_type: str) -> Family:
    """Import the family of a ``model_type``, which has to be one of ``FAMILIES``."""
    family: Any = import_module(f"omni_rlvr.models.{FAMILIES[model_type]}.family")
    return family
