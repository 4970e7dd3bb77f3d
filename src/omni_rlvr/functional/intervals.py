"""Percentile bootstrap intervals of means and of shares, by resampling clips with replacement."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 2**22
"""Random numbers drawn at once."""


def resampled_means(values: Tensor, *, num_resamples: int, seed: int) -> Tensor:
    """Draws N rows with replacement, again and again, and takes the columns' means.

    Columns are resampled together, so that a ratio or a difference of them can be taken after.

    Args:
        values: [N, K], N > 0.
        num_resamples: R, how many resamples to draw.
        seed: equal seeds give equal draws.

    Returns:
        [R, K] float64.

    Raises:
        ValueError: there is no row.

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    num_rows = len(values)
    if num_rows == 0:
        raise ValueError("an interval needs at least one row, got none")
    generator = torch.Generator().manual_seed(seed)
    values, parts, left = values.double().cpu(), [], num_resamples
    while left:
        size = min(left, max(1, CHUNK // num_rows))
        picks = torch.randint(num_rows, (size, num_rows), generator=generator)
        counts = torch.zeros(size, num_rows, dtype=torch.float64)
        counts.scatter_add_(1, picks, torch.ones_like(counts))
        parts.append(counts @ values / num_rows)
        left -= size
    return torch.cat(parts)


def percentile_interval(scores: Tensor, *, confidence: float) -> tuple[float, float]:
    """Cuts off equal tails: the quantiles ``(1 - confidence) / 2`` and ``(1 + confidence) / 2``.

    Args:
        scores: [R] resampled scores.
        confidence: in (0, 1).
    """
    tail = (1.0 - confidence) / 2.0
    ends = torch.tensor([tail, 1.0 - tail], dtype=scores.dtype)
    low, high = torch.quantile(scores, ends).tolist()
    return low, high
