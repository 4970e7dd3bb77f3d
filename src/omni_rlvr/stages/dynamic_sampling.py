"""Dynamic sampling: groups whose rewards are all equal teach nothing and are sampled again.

DAPO draws new prompts until a batch is full of groups with some spread. Here a step has one batch
of prompts, so the same prompts are sampled again, a limited number of times; a group that stays
equal stays in the batch, with advantages of 0. The step keeps its prompts and its size, and a
resumed run sees the data that an unbroken one would have seen.

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


def refill(
    first: Scored,
    sample: Callable[[Tensor], Scored],
    *,
    num_generations: int,
    max_resample_times: int,
) -> tuple[Scored, int]:
    """Samples groups without spread again.

    Args:
        first: B groups.
        sample: samples and scores the groups of the prompts it is given, [b] int64.
        num_generations: G.
        max_resample_times: rounds at most; each samples the groups that still have no spread.

    Returns:
        B groups, each the first with spread or else the last sampled, and how many groups were
        sampled again, over all rounds.
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
    """Puts n new rows in the place of ``rows``, [n] int64 on the CPU."""
    old, ids = scored.rollout, new.rollout.completion_ids
    width, place = max(old.completion_ids.shape[1], ids.shape[1]), rows.to(ids.device)

    def put(whole: Tensor, part: Tensor) -> Tensor:
        out = _widened(whole, width)
        out[place] = _widened(part, width)
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


def _widened(values: Tensor, width: int) -> Tensor:
    """A copy of [N, T] with zeros up to ``width``; what lies beyond the mask is never read."""
    out = values.new_zeros((len(values), width))
    out[:, : values.shape[1]] = values
    return out
