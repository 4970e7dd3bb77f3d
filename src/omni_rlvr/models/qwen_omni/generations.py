"""The differences between Qwen2.5-Omni and Qwen3-Omni, one ``Generation`` each.

Only the thinker is used: the part of a published model that takes clips and writes text. Folders of
the whole model, with a talker, and of the thinker alone can both be loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerForConditionalGeneration,
)

from omni_rlvr.models.policy import BLOCK_LAYERS


def _audio_tokens_2_5(num_frames: int) -> int:
    return ((num_frames - 1) // 2 - 1) // 2 + 1


def _audio_tokens_3(num_frames: int) -> int:
    chunks, left = divmod(num_frames, 100)  # the tower splits sound into chunks of one second
    for _ in range(3):  # convolutions of stride 2
        left = (left - 1) // 2 + 1
    return 13 * chunks + left


@dataclass(frozen=True)
class Generation:
    """One of the two generations of models in this family."""

    title: str
    model_types: tuple[str, str]
    """``model_type`` of a published folder, and of one with only the thinker."""
    thinker: Any
    """transformers' class of the thinker."""
    processor: Any
    """transformers' class of the processor."""
    factor: int
    """Side in pixels of the square that one token covers; height and width are multiples of it."""
    blocks_s: float | None
    """Picture and sound alternate in blocks of this many seconds; None: token by token."""
    has_joint_brackets: bool
    """Whether the two tokens that open an interleaved clip have the same position, and the two that
    close it."""
    has_whole_times: bool
    """Whether positions in time are truncated to whole numbers."""
    n_window: int
    """Half the length, in log-mel frames, of the chunks that the audio tower works on."""
    audio_tokens: Callable[[int], int]
    """Number of log-mel frames (100 a second) -> number of tokens."""
    has_silent_end: bool
    """Whether sound is padded with silence for its last log-mel frames, instead of mirrored."""
    lora_targets: tuple[str, ...]
    """Suffixes of the linear layers that get adapters if the config names none."""
    unused: tuple[str, ...]
    """Weights that do not affect any output."""


QWEN2_5 = Generation(
    title="Qwen2.5-Omni",
    model_types=("qwen2_5_omni", "qwen2_5_omni_thinker"),
    thinker=Qwen2_5OmniThinkerForConditionalGeneration,
    processor=Qwen2_5OmniProcessor,
    factor=28,
    blocks_s=2.0,
    has_joint_brackets=True,
    has_whole_times=True,
    n_window=100,
    audio_tokens=_audio_tokens_2_5,
    has_silent_end=True,
    lora_targets=BLOCK_LAYERS,
    unused=("audio_tower.audio_bos_eos_token.weight",),
)
QWEN3 = Generation(
    title="Qwen3-Omni",
    model_types=("qwen3_omni_moe", "qwen3_omni_moe_thinker"),
    thinker=Qwen3OmniMoeThinkerForConditionalGeneration,
    processor=Qwen3OmniMoeProcessor,
    factor=32,
    blocks_s=None,
    has_joint_brackets=False,
    has_whole_times=False,
    n_window=50,
    audio_tokens=_audio_tokens_3,
    has_silent_end=False,
    # experts are not linear layers: all experts of a layer are two parameters
    lora_targets=BLOCK_LAYERS[:4],
    unused=(),
)
GENERATIONS = {
    model_type: generation
    for generation in (QWEN2_5, QWEN3)
    for model_type in generation.model_types
}
"""``model_type`` -> generation."""
