"""The features of a batch: cached ones as they are, the rest from the towers, once a clip."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from omni_rlvr.models.policy import Policy
from omni_rlvr.types import Batch, Features, Prompts, UserError


def encode(policy: Policy, batch: Batch) -> Features:
    """Runs the towers on the clips that were read and puts cached features in their places.

    Args:
        policy: its towers run only if the batch holds pixels or sound.
        batch: on the policy's device; ``cached_rows`` says which features it brings along.

    Returns:
        video [Bv, F, patches, D_video] and audio [Ba, frames, D_audio] of all rows that have them.
    """
    fresh = policy.encode(batch)
    if batch.feature_dtype is None:
        return fresh
    cached = batch.features if batch.features is not None else Features(None, None)
    parts = {}
    for name, rows in (("video", batch.video_rows), ("audio", batch.audio_rows)):
        new, old = vars(fresh)[name], vars(cached)[name]
        if new is not None:
            new = new.to(batch.feature_dtype)
        merged = _merge(new, old, torch.isin(rows, rows.new_tensor(batch.cached_rows)))
        parts[name] = None if merged is None else merged.to(policy.dtype)
    return Features(**parts)


def without_encoded(batch: Batch) -> Batch:
    """Drops pixels, sound and cached features that encoding has used up; nothing needs them.

    Without a cache all of them are kept: a tower that trains will see them again.
    """
    if batch.feature_dtype is None:
        return batch
    return replace(batch, pixel_values=None, input_features=None, cached_rows=(), features=None)


def _merge(fresh: Tensor | None, cached: Tensor | None, is_cached: Tensor) -> Tensor | None:
    """Interleaves two stacks in the order that ``is_cached`` ([rows] bool) gives."""
    if fresh is None or cached is None:
        return cached if fresh is None else fresh
    merged = fresh.new_empty(len(is_cached), *fresh.shape[1:])
    merged[is_cached], merged[~is_cached] = cached.to(fresh.dtype), fresh
    return merged


def position_limit(text_config: Any) -> int | None:
    """Read how many positions a language model knows; None if its config does not say.

    Rotary positions that are scaled reach as far as their factor takes the original length.
    """
    fields = text_config.to_dict()
    limit = fields.get("max_position_embeddings")
    scaling = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings")
    if limit is not None and factor is not None:
        limit = max(limit, int(factor * (original or limit)))
    return limit


def check_room(policy: Policy, batch: Batch, num_new: Tensor | int, key: str) -> None:
    """Refuse a prompt that leaves no room for its completion within the model's positions.

    Args:
        policy: the model.
        batch: its prompts.
        num_new: tokens that a completion may have; or that each one has, [B].
        key: what can be lowered, for the message.

    Raises:
        UserError: names the clip, its length and the limit.
    """
    limit = position_limit(policy.language_model.config.get_text_config())
    if limit is None or len(batch) == 0:
        return
    lengths = batch.prompt_mask.sum(dim=1) + num_new
    longest = int(lengths.argmax())
    if int(lengths[longest]) > limit:
        example, prompt = batch.examples[longest], int(batch.prompt_mask[longest].sum())
        new = int(lengths[longest]) - prompt
        raise UserError(
            f"{example.id or 'the clip'}: a prompt of {prompt} tokens and a completion of up to "
            f"{new} are {prompt + new}, and this model knows {limit} positions "
            f"(max_position_embeddings); lower {key} or model.options.num_frames"
        )


def make_prompts(
    policy: Policy,
    batch: Batch,
    features: Features,
    *,
    num_new: int,
    key: str,
) -> Prompts:
    """Make the prompts that completions of up to ``num_new`` tokens will follow.

    Raises:
        UserError: prompt and completion are longer than the model's positions; ``key`` can be
            lowered.
    """
    check_room(policy, batch, num_new, key)
    return policy.prompts(batch, features)
