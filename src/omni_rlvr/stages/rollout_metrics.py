"""Metrics of a rollout, under TRL's names, and its rows for completions.jsonl."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omni_rlvr.functional.advantages import zero_spread
from omni_rlvr.types import Example, RewardOutput, Rollout


def rollout_metrics(
    size: Tensor, truncated: Tensor, scored: RewardOutput, *, num_generations: int
) -> dict[str, float]:
    """Compute the metrics of completions and rewards.

    ``reward_std`` is the standard deviation over the whole batch, as in TRL.
    ``reward_std_within_group`` is the mean of the groups' standard deviations, as in ms-swift.

    Args:
        size: [N] lengths in tokens of the N = B*G completions of all ranks.
        truncated: [N] bool: completions without an end token.
        scored: their rewards; rows that are NaN are left out.
        num_generations: G.

    Returns:
        Metric name -> value.
    """
    ended = size[~truncated]
    ended = ended if len(ended) else size.new_zeros(1)
    groups = scored.rewards.view(-1, num_generations)
    metrics = {
        "reward": _mean(scored.rewards),
        "reward_std": _std(scored.rewards),
        "reward_std_within_group": _mean(torch.tensor([_std(group) for group in groups])),
        "frac_reward_zero_std": zero_spread(groups).float().mean().item(),
        "completions/mean_length": size.mean().item(),
        "completions/min_length": size.min().item(),
        "completions/max_length": size.max().item(),
        "completions/clipped_ratio": truncated.float().mean().item(),
        "completions/mean_terminated_length": ended.mean().item(),
        "completions/min_terminated_length": ended.min().item(),
        "completions/max_terminated_length": ended.max().item(),
    }
    for name, scores in scored.terms.items():
        metrics[f"rewards/{name}/mean"] = _mean(scores)
        metrics[f"rewards/{name}/std"] = _std(scores)
    return metrics


def completion_rows(
    rollout: Rollout, scored: RewardOutput, advantages: Tensor, examples: Sequence[Example]
) -> list[dict[str, object]]:
    """List every completion with its clip, label, rewards and advantage."""
    return [
        {
            "id": example.id,
            "label": example.answer,
            "completion": text,
            "reward": scored.rewards[i].item(),
            "advantage": advantages[i].item(),
            **{f"rewards/{name}": scores[i].item() for name, scores in scored.terms.items()},
        }
        for i, (text, example) in enumerate(zip(rollout.texts, examples, strict=True))
    ]


def _mean(values: Tensor) -> float:
    return values.double().nanmean().item()


def _std(values: Tensor) -> float:
    """Compute the sample std (ddof 1) of the values that are not NaN; 0 for fewer than two."""
    scored = values[~values.isnan()].double()  # in float32 the squares of large rewards lose digits
    return scored.std().item() if len(scored) > 1 else 0.0
