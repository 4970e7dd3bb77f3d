"""Score completions under a policy, and select rows of an experience.

Features of frozen towers are computed once and kept. Those of a tower that trains are computed
where they are used, with gradient: the experience then keeps the tower's input instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from omni_rlvr.config.stage import LoopConfig
from omni_rlvr.functional.logprobs import TokenScores, token_scores
from omni_rlvr.models.modules import trains
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.prefix.fast_path import select_activations
from omni_rlvr.models.prefix.scoring import Rows, completion_hidden
from omni_rlvr.models.sharding import is_sharded
from omni_rlvr.rollout.encode import completed, encode
from omni_rlvr.types import Batch, Experience, Features

T = TypeVar("T")
LOGITS_AT_ONCE = 2**25
"""Largest number of elements of the logits in memory at one time; 128 MiB in float32."""


def completion_scores(
    policy: Policy,
    experience: Experience,
    *,
    temperature: float,
    gradient_checkpointing: bool,
    entropy_gradient: bool,
) -> TokenScores:
    """Score an experience's completions; prompts are embedded and processed once.

    Args:
        policy: the policy that scores.
        experience: N rows.
        temperature: the one that the completions were sampled with.
        gradient_checkpointing: whether layers keep only their inputs for backward.
        entropy_gradient: whether the entropy has a gradient too.

    Returns:
        [N, T] each; 0 beyond the mask.
    """
    batch, mask = experience.batch, experience.completion_mask.bool()
    known = experience.features
    # the features of a tower that trains are computed here, with gradient
    made = policy.encode(_not_encoded(batch, known))
    prompts = policy.prompts(batch, completed(known, made))
    if is_sharded(policy) and torch.is_grad_enabled():
        # If no weight before the first layer trains, this rank would reduce that layer's gradients
        # last, but a rank whose clips have a trained projector would reduce them first: ranks would
        # run their collectives in different orders.
        prompts.embeds.requires_grad_()
    rows = Rows(
        prompts, experience.prompt_index, experience.completion_ids, experience.completion_mask
    )
    language_model = policy.language_model
    hidden = completion_hidden(
        language_model,
        rows,
        gradient_checkpointing=gradient_checkpointing,
        activations=experience.activations,
    )
    scores = token_scores(
        hidden,
        experience.completion_ids[mask],
        language_model.lm_head,
        temperature=temperature,
        entropy_gradient=entropy_gradient,
        chunk_size=max(1, LOGITS_AT_ONCE // language_model.config.get_text_config().vocab_size),
    )
    padded = (v.new_zeros(mask.shape).masked_scatter(mask, v) for v in scores)
    return TokenScores(*padded)


def encode_frozen(policy: Policy, batch: Batch) -> Features:
    """Run the towers that do not train; their features serve every update of a step."""
    left_out = [None] * len(batch)
    return encode(
        policy,
        replace(
            batch,
            pixel_values=left_out if trains(policy, "vision_tower") else batch.pixel_values,
            input_features=left_out if trains(policy, "audio_tower") else batch.input_features,
        ),
    )


def keep_frozen(policy: Policy, features: Features) -> Features:
    """Drop the features of towers that train: an update computes them again, with gradient."""
    dropped = [None] * len(features.video)
    return Features(
        video=dropped if trains(policy, "vision_tower") else features.video,
        audio=dropped if trains(policy, "audio_tower") else features.audio,
    )


def _not_encoded(batch: Batch, features: Features) -> Batch:
    """Keep only the media that have no features yet."""
    return replace(
        batch,
        pixel_values=_absent_from(features.video, batch.pixel_values),
        input_features=_absent_from(features.audio, batch.input_features),
    )


def _absent_from(
    features: Sequence[Tensor | None], media: Sequence[Tensor | None]
) -> list[Tensor | None]:
    return [clip if known is None else None for known, clip in zip(features, media, strict=True)]


def select(experience: Experience, rows: Tensor) -> Experience:
    """Select completions and the prompts they need; padding that no selected row needs is cut off.

    Args:
        experience: N rows.
        rows: [n] int64.

    Returns:
        n rows, and only the prompts that they use.
    """
    prompts, prompt_index = experience.prompt_index[rows].unique(return_inverse=True)
    batch, features = select_prompts(experience.batch, experience.features, prompts)
    mask = experience.completion_mask[rows]
    width = _longest(mask)
    return replace(
        experience,
        batch=batch,
        features=features,
        prompt_index=prompt_index,
        completion_ids=experience.completion_ids[rows, :width],
        completion_mask=mask[:, :width],
        advantages=None if experience.advantages is None else experience.advantages[rows],
        old_per_token_logps=_columns(experience.old_per_token_logps, rows, width),
        ref_per_token_logps=_columns(experience.ref_per_token_logps, rows, width),
        contrast_per_token_logps=_columns(experience.contrast_per_token_logps, rows, width),
        loss_mask=_columns(experience.loss_mask, rows, width),
        policy_mask=_columns(experience.policy_mask, rows, width),
        activations=select_activations(experience.activations, rows),
    )


def select_prompts(batch: Batch, features: Features, prompts: Tensor) -> tuple[Batch, Features]:
    """Select prompts by their indices, [b] int64, and their features."""
    rows = prompts.tolist()
    mask = batch.prompt_mask[prompts]
    start = mask.shape[1] - _longest(mask)  # left padding that no selected prompt needs
    selected = replace(
        batch,
        examples=_picked(batch.examples, rows),
        prompt_ids=batch.prompt_ids[prompts, start:],
        prompt_mask=mask[:, start:],
        prompt_positions=batch.prompt_positions[..., prompts, start:],
        video_shapes=_picked(batch.video_shapes, rows),
        audio_shapes=_picked(batch.audio_shapes, rows),
        pixel_values=_picked(batch.pixel_values, rows),
        input_features=_picked(batch.input_features, rows),
        features=None,
        completion_ids=None,
        completion_mask=None,
        places=_picked(batch.places, rows) if batch.places else (),
        notes=_picked(batch.notes, rows) if batch.notes else (),
    )
    theirs = Features(_picked(features.video, rows), _picked(features.audio, rows))
    return _not_encoded(selected, theirs), theirs


def _picked(values: Sequence[T], rows: Sequence[int]) -> list[T]:
    return [values[row] for row in rows]


def _longest(mask: Tensor) -> int:
    """Tokens of the longest row of [n, L]; 0 without rows."""
    return int(mask.sum(dim=1).max()) if len(mask) else 0


def _columns(values: Tensor | None, rows: Tensor, width: int) -> Tensor | None:
    return None if values is None else values[rows, :width]


def micro_batches(experience: Experience, rows: Tensor, config: LoopConfig) -> list[Tensor]:
    """Split rows, in the order given, into micro-batches.

    Args:
        experience: N rows.
        rows: [n] int64, those to split.
        config: limits the rows and the tokens of a micro-batch. A prompt counts once for all its
            rows; 0 tokens set no limit. A row longer than the limit is a micro-batch of its own.

    Returns:
        The row indices of each micro-batch.
    """
    max_rows, max_tokens = config.micro_batch_size, config.max_tokens_per_micro_batch
    if max_tokens == 0:
        return list(rows.split(max_rows)) if len(rows) else []
    prompts = experience.batch.prompt_mask.sum(dim=1).tolist()
    sizes = experience.completion_mask.sum(dim=1).tolist()
    owners = experience.prompt_index.tolist()
    parts: list[list[int]] = []
    seen: set[int] = set()
    tokens = 0
    for row in rows.tolist():
        more = sizes[row] + (0 if owners[row] in seen else prompts[owners[row]])
        if not parts or len(parts[-1]) == max_rows or tokens + more > max_tokens:
            parts.append([])
            seen, tokens, more = set(), 0, sizes[row] + prompts[owners[row]]
        parts[-1].append(row)
        seen.add(owners[row])
        tokens += more
    return [torch.tensor(part, device=rows.device) for part in parts]


def by_length(experience: Experience) -> Tensor:
    """Sort rows by length, prompt included, so that micro-batches hold like rows: [N] indices."""
    prompts = experience.batch.prompt_mask.sum(dim=1)[experience.prompt_index]
    return (prompts + experience.completion_mask.sum(dim=1)).argsort(stable=True)
