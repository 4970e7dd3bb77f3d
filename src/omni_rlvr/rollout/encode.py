"""The features of a batch: those from the cache, and for other clips one pass of the towers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from omni_rlvr.models.policy import Policy
from omni_rlvr.types import Batch, Features, Prompts, UserError


def encode(policy: Policy, batch: Batch) -> Features:
    """Run the towers on the clips that were read and put cached features in their places.

    Args:
        policy: Its towers run only if the batch holds pixels or sound.
        batch: On the policy's device; its ``features`` are the cached ones.

    Returns:
        The features of all rows.
    """
    fresh, dtype = policy.encode(batch), batch.feature_dtype
    if dtype is None:
        return fresh

    def rounded(clips: Sequence[Tensor | None]) -> list[Tensor | None]:
        # as if they came from the cache, so that a run does not depend on what was in it
        return [None if clip is None else clip.to(dtype).to(policy.dtype) for clip in clips]

    made = Features(rounded(fresh.video), rounded(fresh.audio))
    if batch.features is None:
        return made
    cached = Features(rounded(batch.features.video), rounded(batch.features.audio))
    return completed(cached, made)


def completed(known: Features, other: Features) -> Features:
    """Fill the gaps in ``known`` with the features of ``other``."""

    def merged(
        first: Sequence[Tensor | None], second: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        return [b if a is None else a for a, b in zip(first, second, strict=True)]

    return Features(merged(known.video, other.video), merged(known.audio, other.audio))


def without_encoded(batch: Batch) -> Batch:
    """Drop pixels, sound and cached features, which nothing needs after encoding.

    Without a cache all of them are kept: a tower that trains will read them again.
    """
    if batch.feature_dtype is None:
        return batch
    nothing = [None] * len(batch)
    return replace(batch, pixel_values=nothing, input_features=nothing, features=None)


def position_limit(text_config: Any) -> int | None:
    """Read how many positions a language model supports; None if its config does not say.

    With rotary scaling it is the factor times the original length.
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
        batch: the prompts.
        num_new: largest number of tokens of a completion; or the number of each one, [B].
        key: the option that can be lowered, for the message.

    Raises:
        UserError: a prompt is too long; the message names the clip, its length and the limit.
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
            f"(max_position_embeddings); lower {key} or model.options.num_frames "
            "(max_frames, where frames are taken at a rate)"
        )


def make_prompts(
    policy: Policy,
    batch: Batch,
    features: Features,
    *,
    num_new: int,
    key: str,
) -> Prompts:
    """Make prompts that leave room for completions of up to ``num_new`` tokens.

    Raises:
        UserError: prompt and completion are longer than the model's positions; ``key`` can be
            lowered.
    """
    check_room(policy, batch, num_new, key)
    return policy.prompts(batch, features)
