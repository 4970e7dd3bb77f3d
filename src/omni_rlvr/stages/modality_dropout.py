"""Prompts without one of their modalities: Batch in, Batch out.

A modality that is dropped is gone from the prompt too, as in a clip that never had it: its
placeholders are not filled with zeros.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from omni_rlvr.data.collate import pad_rows
from omni_rlvr.rollout.next_token import Generators, uniforms
from omni_rlvr.types import Batch, Features, Processing


def without(
    batch: Batch, features: Features, processor: Processing, *, video: Tensor, audio: Tensor
) -> tuple[Batch, Features]:
    """Takes modalities out of prompts.

    Args:
        batch: B prompts.
        features: theirs.
        processor: writes the prompts again.
        video: [B] bool, on the CPU: which prompts lose their picture.
        audio: [B] bool: which lose their sound.

    Returns:
        The prompts, and the features that are left.
    """
    keeps_video = ~video[batch.video_rows.cpu()]
    keeps_audio = ~audio[batch.audio_rows.cpu()]
    device = batch.prompt_ids.device
    video_rows = batch.video_rows[keeps_video.to(device)]
    audio_rows = batch.audio_rows[keeps_audio.to(device)]
    seen, heard = {*video_rows.tolist()}, {*audio_rows.tolist()}
    prompts = [
        processor.prompt_ids(example.question, has_video=i in seen, has_audio=i in heard)
        for i, example in enumerate(batch.examples)
    ]
    prompt_ids, prompt_mask = pad_rows(prompts, pad=processor.pad_token_id, left=True)
    left = replace(
        batch,
        prompt_ids=prompt_ids.to(device),
        prompt_mask=prompt_mask.to(device),
        pixel_values=_kept(batch.pixel_values, keeps_video),
        video_rows=video_rows,
        input_features=_kept(batch.input_features, keeps_audio),
        audio_rows=audio_rows,
    )
    return left, Features(_kept(features.video, keeps_video), _kept(features.audio, keeps_audio))


def drop_modalities(
    batch: Batch,
    features: Features,
    processor: Processing,
    *,
    probability: float,
    generator: Generators,
) -> tuple[Batch, Features]:
    """Takes video or audio, by a fair coin, out of some prompts that have both.

    A prompt has one group, so all its completions are asked the same.

    Args:
        batch: B prompts.
        features: theirs.
        processor: writes the prompts again.
        probability: that a prompt with both loses one.
        generator: source of the random numbers, on the CPU, two a prompt; or one a prompt.

    Returns:
        B prompts, each with at least one of its modalities, and the features that are left.
    """
    drawn = [uniforms(generator, len(batch)) for _ in range(2)]
    has_video, has_audio = (torch.zeros(len(batch), dtype=torch.bool) for _ in range(2))
    has_video[batch.video_rows.cpu()] = True
    has_audio[batch.audio_rows.cpu()] = True
    loses = (drawn[0] < probability) & has_video & has_audio
    if not loses.any():
        return batch, features
    coin = drawn[1] < 0.5
    return without(batch, features, processor, video=loses & coin, audio=loses & ~coin)


def _kept(values: Tensor | None, keeps: Tensor) -> Tensor | None:
    if values is None or not keeps.any():
        return None
    return values[keeps.to(values.device)]
