"""Dynamic sampling: groups whose rewards are all equal have no gradient and are sampled again.

Note:
    DAPO draws new prompts until the batch is full of groups whose rewards differ. Here the same
    prompts are sampled again, a limited number of times. A group whose rewards stay equal stays in
    the batch, with advantages of 0. So each step keeps its prompts, and a resumed run sees the same
    data as an unbroken one.

Reference:
    DAPO sec. 3.2, arXiv 2503.14476.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_rlvr.functional.advantages import zero_spread
from omni_rlvr.types import RewardOutput, Rollout


@dataclass(frozen=True)
class Scored:
    """A rollout and its rewards."""

    rollout: Rollout
    rewards: RewardOutput


def resample_groups(
    first: Scored,
    sample: Callable[[Tensor], Scored],
    *,
    num_generations: int,
    max_resample_times: int,
) -> tuple[Scored, int]:
    """Resample the groups whose rewards are all equal.

    Args:
        first: B groups.
        sample: samples and scores one group for each of the given prompts, [b] int64.
        num_generations: G.
        max_resample_times: largest number of rounds; each round resamples every group whose rewards
            are still equal.

    Returns:
        The B groups, and the number of groups resampled, summed over rounds. A prompt keeps its
        first group whose rewards differ, or else the last group sampled.
    """
    scored, num_resampled = first, 0
    for _ in range(max_resample_times):
        prompts = zero_spread(scored.rewards.rewards.view(-1, num_generations)).nonzero().squeeze(1)
        if len(prompts) == 0:
            break
        rows = (prompts.unsqueeze(1) * num_generations + torch.arange(num_generations)).view(-1)
        scored = _replace(scored, sample(prompts), rows)
        num_resampled += len(prompts)
    return scored, num_resampled


def _replace(scored: Scored, new: Scored, rows: Tensor) -> Scored:
    """Replace n rows by new ones; ``rows`` holds their indices, [n] int64 on the CPU."""
    old, ids = scored.rollout, new.rollout.completion_ids
    width, place = max(old.completion_ids.shape[1], ids.shape[1]), rows.to(ids.device)

    def put(values: Tensor, resampled: Tensor) -> Tensor:
        out = values.new_zeros((len(values), width))  # zeros are outside the mask
        out[:, : values.shape[1]] = values
        out[place] = 0
        out[place, : resampled.shape[1]] = resampled
        return out

    texts = list(old.texts)
    for row, text in zip(rows.tolist(), new.rollout.texts, strict=True):
        texts[row] = text
    terms = {
        name: scores.index_copy(0, rows, new.rewards.terms[name])
        for name, scores in scored.rewards.terms.items()
    }
    return Scored(
        Rollout(
            completion_ids=put(old.completion_ids, ids),
            completion_mask=put(old.completion_mask, new.rollout.completion_mask),
            per_token_logps=put(old.per_token_logps, new.rollout.per_token_logps),
            texts=texts,
            truncated=old.truncated.index_copy(0, place, new.rollout.truncated),
            finite=old.finite.index_copy(0, place, new.rollout.finite),
        ),
        RewardOutput(scored.rewards.rewards.index_copy(0, rows, new.rewards.rewards), terms),
    )
