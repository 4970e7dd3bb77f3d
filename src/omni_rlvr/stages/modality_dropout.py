"""Prompts without one of their modalities: Batch in, Batch out.

A modality that is dropped is gone from the prompt too, as in a clip that never had it: its
placeholders are not filled with zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from omni_rlvr.data.collate import write_prompts
from omni_rlvr.rollout.next_token import Generators, uniforms
from omni_rlvr.types import Batch, Features, Processing

T = TypeVar("T")


def without_modalities(
    batch: Batch, features: Features, processor: Processing, *, video: Tensor, audio: Tensor
) -> tuple[Batch, Features]:
    """Rebuild prompts without some of their modalities.

    Args:
        batch: B prompts.
        features: Tower outputs of these prompts.
        processor: Rebuilds the prompts.
        video: [B] bool: which prompts lose their video.
        audio: [B] bool: which prompts lose their audio.

    Returns:
        The prompts, and the features that are left.
    """
    device = batch.prompt_ids.device
    video_shapes, audio_shapes = _kept(batch.video_shapes, video), _kept(batch.audio_shapes, audio)
    questions = [example.question for example in batch.examples]
    ids, mask, positions = write_prompts(processor, questions, video_shapes, audio_shapes)
    reduced = replace(
        batch,
        prompt_ids=ids.to(device),
        prompt_mask=mask.to(device),
        prompt_positions=positions.to(device),
        video_shapes=video_shapes,
        audio_shapes=audio_shapes,
        pixel_values=_kept(batch.pixel_values, video),
        input_features=_kept(batch.input_features, audio),
    )
    return reduced, Features(_kept(features.video, video), _kept(features.audio, audio))


def drop_modalities(
    batch: Batch,
    features: Features,
    processor: Processing,
    *,
    probability: float,
    generator: Generators,
) -> tuple[Batch, Features]:
    """Remove video or audio, each with probability 1/2, from some prompts that have both.

    All completions of a prompt see the same modalities.

    Args:
        batch: B prompts.
        features: tower outputs of these prompts.
        processor: rebuilds the prompts.
        probability: probability that a prompt with both modalities loses one.
        generator: source of two random numbers per prompt, on the CPU; or one generator per prompt.

    Returns:
        B prompts, each with at least one of its modalities, and the features that are left.
    """
    drawn = [uniforms(generator, len(batch)) for _ in range(2)]
    has_both = [
        video is not None and audio is not None
        for video, audio in zip(batch.video_shapes, batch.audio_shapes, strict=True)
    ]
    loses = (drawn[0] < probability) & torch.tensor(has_both, dtype=torch.bool)
    if not loses.any():
        return batch, features
    coin = drawn[1] < 0.5
    return without_modalities(batch, features, processor, video=loses & coin, audio=loses & ~coin)


def _kept(values: Sequence[T | None], loses: Tensor) -> list[T | None]:
    return [None if lost else value for value, lost in zip(values, loses.tolist(), strict=True)]
