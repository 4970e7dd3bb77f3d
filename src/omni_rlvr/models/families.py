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
from omni_rlvr.models.policy import Policy, TimeAxis
from omni_rlvr.types import Batch

if TYPE_CHECKING:
    from omni_rlvr.models.encoding import Encoding

    # that file asks this one for the family that joins parts
    from omni_rlvr.models.loading.from_parts import Parts

COMPOSED = "omni_rlvr"
"""The ``model_type`` of models that are joined from parts, the tiny one among them."""
FAMILIES = {
    COMPOSED: "composed",
    "HumanOmni_qwen2": "composed",  # as R1-Omni and HumanOmni were published
    "qwen2_audio": "qwen2_audio",
    "qwen2_5_omni": "qwen_omni",  # with a talker, as published
    "qwen2_5_omni_thinker": "qwen_omni",
    "qwen3_omni_moe": "qwen_omni",  # with a talker, as published
    "qwen3_omni_moe_thinker": "qwen_omni",
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

    def skeleton(
        self,
        folder: Path,
        dtype: torch.dtype,
        options: LoadOptions,
        instruction: str | None,
    ) -> Policy:
        """Build what ``load`` gives but for the weights.

        Returns:
            The policy on the meta device, where weights have shapes and take no memory, with its
            processor.

        Raises:
            UserError: As for ``load``, but no weight is read.
        """

    def encoding(self, policy: Policy, batch: Batch) -> Encoding:
        """Say what encoding a batch takes; nothing is computed.

        Args:
            policy: What ``skeleton`` built.
            batch: Clips on the meta device.
        """

    def tiny(self, seed: int, model_type: str) -> Policy:
        """Build a small policy from nothing, with random weights, for tests.

        Args:
            seed: Of the weights.
            model_type: Which of the family's models; types that differ in files alone are one.
        """

    def put_processor(
        self, policy: Policy, folder: Path, options: LoadOptions, instruction: str | None
    ) -> None:
        """Give a policy the processor that an adapter checkpoint was saved with."""

    def sound_window_s(self, folder: Path | None) -> float | None:
        """Read how many seconds of sound a checkpoint's model takes, without loading it.

        Args:
            folder: The checkpoint with its processor; None, or a folder without settings, gives
                the family's own.

        Returns:
            None for any number.
        """

    def time_axis(self, folder: Path, base: Path, options: LoadOptions) -> TimeAxis | None:
        """Read what certifies the time axis of a checkpoint's clips, without loading its weights.

        Args:
            folder: The checkpoint with its processor.
            base: Where config.json is: the checkpoint, or the base of its adapters.
            options: What is changed of it.

        Returns:
            None where positions do not tell when something is seen or heard.
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


class ComposedFamily(Family, Protocol):
    """What the family offers besides whose models are joined from parts."""

    def compose(
        self, parts: Parts, dtype: torch.dtype, options: LoadOptions, instruction: str | None
    ) -> Policy:
        """Join parts that were trained apart to a new policy.

        Raises:
            UserError: A part cannot be read.
        """

    def compose_skeleton(
        self, parts: Parts, dtype: torch.dtype, options: LoadOptions, instruction: str | None
    ) -> Policy:
        """Build what ``compose`` gives but for the weights; see ``skeleton``."""

    def register_auto_classes(self) -> None:
        """Register the family's classes with transformers' Auto classes; see ``omni_rlvr.hf``."""


def family_of(model_type: str) -> Family:
    """Import the family of a ``model_type``, which has to be one of ``FAMILIES``."""
    family: Any = import_module(f"omni_rlvr.models.{FAMILIES[model_type]}.family")
    return family


def composed_family() -> ComposedFamily:
    """Import the family whose models are joined from parts."""
    family: Any = family_of(COMPOSED)
    return family
