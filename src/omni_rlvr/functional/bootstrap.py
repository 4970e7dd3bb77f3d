"""Is one model better than another on the same clips? Paired tests, nothing else.

Both models answered the same N clips, so what counts is the difference clip by clip: resampling
keeps the pairs together, and McNemar's test looks only at the clips that one of them got right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_RESAMPLES_AT_ONCE = 256


def paired_bootstrap(
    differences: Tensor, *, num_resamples: int, confidence: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Percentile bootstrap intervals of mean paired differences, by resampling the N clips.

    ``lo, hi = quantiles (1 -+ confidence) / 2 of mean_i d[k, i*]``, ``i*`` drawn with replacement

    Args:
        differences: [K, N] K comparisons on the same N clips, N > 0: a clip's score under one model
            minus its score under the other.
        num_resamples: R, how many resamples to draw; all K comparisons see the same ones.
        confidence: Share of resampled means inside the interval, in (0, 1).
        seed: Equal seeds give equal intervals.

    Returns:
        ``(lo, hi)``, [K] float64 each.

    Raises:
        ValueError: No clip, no resample, or a confidence outside (0, 1).

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    if differences.ndim != 2 or differences.shape[1] == 0:
        raise ValueError(f"differences must be [K, N] with N > 0, got {list(differences.shape)}")
    values = differences.cpu().double()
    num_clips = values.shape[1]
    generator = torch.Generator().manual_seed(seed)
    means = []
    for start in range(0, num_resamples, _RESAMPLES_AT_ONCE):
        size = min(_RESAMPLES_AT_ONCE, num_resamples - start)
        drawn = torch.randint(num_clips, (size, num_clips), generator=generator)
        counts = torch.zeros(size, num_clips, dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones(1, dtype=torch.float64).expand(drawn.shape))
        means.append(counts @ values.T / num_clips)
    tail = (1.0 - confidence) / 2.0
    low, high = torch.quantile(
        torch.cat(means), torch.tensor([tail, 1.0 - tail], dtype=torch.float64), dim=0
    )
    return low, high


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test: are the two kinds of disagreement equally likely?

    ``p = min(1, 2 sum_{i <= min(b, c)} C(b + c, i) / 2^(b + c))``

    Args:
        only_first: b, clips that only the first model got right.
        only_second: c, clips that only the second got right.

    Returns:
        The p-value in (0, 1]; 1 where the models never disagree.

    Reference:
        McNemar, Note on the sampling error of the difference between correlated proportions
        (Psychometrika, 1947), with the binomial in place of its approximation.
    """
    total = only_first + only_second
    ways = sum(math.comb(total, i) for i in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * ways / 2**total)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values for their number: Holm's step-down method, in the order given.

    Args:
        p_values: K p-values of one family of tests.

    Returns:
        K adjusted p-values; rejecting those below alpha keeps the family's error below alpha.

    Reference:
        Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


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
