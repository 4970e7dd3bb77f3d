"""Advantages of completions relative to their group."""

from __future__ import annotations

import torch
from torch import Tensor


def group_advantages(rewards: Tensor, *, num_generations: int, scale_rewards: str) -> Tensor:
    """Computes group-relative advantages.

    A_i = (r_i - mean_g(r)) / (std_g(r) + 1e-4), std with ddof 1 over the group's judged rows.

    A group whose rewards are all equal gets exactly zero, whatever rounding makes of its mean. A
    NaN reward (could not be judged) is left out of mean and std and gets advantage 0.

    Args:
        rewards: [N] float32, row ``b*G + g``.
        num_generations: G >= 2, divides N.
        scale_rewards: "group" divides by the group's std, "none" does not (Dr. GRPO).

    Returns:
        [N] float32.

    Raises:
        ValueError: unknown ``scale_rewards``, or N is not a multiple of G.

    Reference:
        GRPO, DeepSeekMath sec. 4.1.2, arXiv 2402.03300; no scaling: Dr. GRPO, arXiv 2503.20783.
    """
    if scale_rewards not in ("group", "none"):
        raise ValueError(f"scale_rewards={scale_rewards!r} is neither 'group' nor 'none'")
    if len(rewards) % num_generations:
        raise ValueError(f"{len(rewards)} rewards are no whole groups of {num_generations}")
    groups = rewards.view(-1, num_generations)
    judged = ~groups.isnan()
    values = torch.where(judged, groups, torch.zeros_like(groups))
    count = judged.sum(dim=1, keepdim=True)
    mean = values.sum(dim=1, keepdim=True) / count.clamp(min=1)
    centred = torch.where(judged, groups - mean, torch.zeros_like(groups))
    centred = torch.where(zero_spread(groups).unsqueeze(1), torch.zeros_like(centred), centred)
    if scale_rewards == "group":
        variance = (centred**2).sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + 1e-4)
    return centred.view(-1)


def zero_spread(groups: Tensor) -> Tensor:
    """Says which groups have judged rewards that are all equal.

    Args:
        groups: [B, G] rewards, NaN where not judged.

    Returns:
        [B] bool.
    """
    low = groups.nan_to_num(nan=float("inf")).amin(dim=1)
    high = groups.nan_to_num(nan=float("-inf")).amax(dim=1)
    return low >= high
