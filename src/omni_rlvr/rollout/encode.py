"""The features of a batch: cached ones as they are, the rest from the towers, once a clip."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from omni_rlvr.models.policy import Policy
from omni_rlvr.types import Batch, Features


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
