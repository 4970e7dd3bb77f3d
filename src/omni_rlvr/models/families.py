"""The model families: which folder of this package reads which ``model_type``.

A family is one folder. Its ``family.py`` has the functions of ``Family``. Code outside the folder
finds them by the ``model_type`` of a checkpoint's config.json or of a policy's config. A new family
is a folder and a row here; a folder is imported when one of its models is first used.
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

    # at runtime this import would be circular
    from omni_rlvr.models.loading.from_parts import Parts

COMPOSED = "omni_rlvr"
"""The ``model_type`` of models that are joined from parts, such as the tiny one."""
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
    """The functions in the ``family.py`` of a folder."""

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
            dtype: The dtype of all weights.
            options: Settings of the checkpoint to change.
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
        """Build the policy that ``load`` returns, without weights.

        Returns:
            The policy on the meta device, where weights have shapes and take no memory, with its
            processor.

        Raises:
            UserError: As for ``load``, but no weight is read.
        """

    def encoding(self, policy: Policy, batch: Batch) -> Encoding:
        """Measure what encoding a batch takes; nothing is computed.

        Args:
            policy: A policy from ``skeleton``.
            batch: Clips on the meta device.
        """

    def tiny(self, seed: int, model_type: str) -> Policy:
        """Build a small policy with random weights, for tests.

        Args:
            seed: The seed of the weights.
            model_type: Which of the family's models to build.
        """

    def put_processor(
        self, policy: Policy, folder: Path, options: LoadOptions, instruction: str | None
    ) -> None:
        """Give a policy the processor that an adapter checkpoint was saved with."""

    def sound_window_s(self, folder: Path | None) -> float | None:
        """Read how many seconds of sound a checkpoint's model takes, without loading it.

        Args:
            folder: The checkpoint with its processor; None, or a folder without settings, gives
                the family's default.

        Returns:
            Seconds; None if there is no limit.
        """

    def time_axis(self, folder: Path, base: Path, options: LoadOptions) -> TimeAxis | None:
        """Read how a checkpoint's positions encode time, without loading its weights.

        Args:
            folder: The checkpoint with its processor.
            base: The folder of config.json: the checkpoint, or the base of its adapters.
            options: Settings of the checkpoint to change.

        Returns:
            None if the family's positions do not encode time.
        """

    def own_name(self, name: str) -> str:
        """Translate a weight's name from another layout that is known; keep any other name."""

    def export(self, policy: Policy, folder: Path, layout: str) -> None:
        """Write a policy without adapters.

        Args:
            policy: The policy.
            folder: An empty folder.
            layout: "omni" for the layout that ``load`` reads, or the name of another one.

        Raises:
            UserError: The policy cannot be written in that layout.
            OSError: The folder cannot be written.
        """


class ComposedFamily(Family, Protocol):
    """The further functions of the family whose models are joined from parts."""

    def compose(
        self, parts: Parts, dtype: torch.dtype, options: LoadOptions, instruction: str | None
    ) -> Policy:
        """Join parts that were trained separately into a new policy.

        Raises:
            UserError: A part cannot be read.
        """

    def compose_skeleton(
        self, parts: Parts, dtype: torch.dtype, options: LoadOptions, instruction: str | None
    ) -> Policy:
        """Build the policy that ``compose`` returns, without weights; see ``skeleton``."""

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
