"""Bootstrap intervals of any score, and paired tests of two models on the same clips.

One resampler serves every interval. It draws N rows with replacement, keeps the columns of a row
together, and passes the column sums of each resample to a statistic: a mean, a ratio of sums, or a
score that is read off a confusion matrix. So the scores of two models on one clip stay paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from scipy.special import ndtri, stdtrit
from torch import Tensor

_DRAWS_AT_ONCE = 2**19
"""Rows drawn at one time, so that the table of draws stays in the processor's cache."""
_BINOMIAL_COST = 8
"""What one binomial number costs, measured in draws of one row."""


def bootstrap_interval(
    rows: Tensor,
    statistic: Callable[[Tensor], Tensor],
    *,
    counts: Tensor | None = None,
    num_resamples: int,
    confidence: float,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute statistics of N rows with percentile bootstrap intervals.

    ``lo, hi = quantiles (1 -+ confidence) / 2 of statistic(sum_i rows[i*])``, ``i*`` drawn with
    replacement. Where a resample has no value of a statistic (0 / 0 is NaN), the quantiles of that
    statistic leave it out.

    Args:
        rows: [M, K] distinct rows of numbers.
        statistic: Map from [R, K] float64 column sums to [R, J] scores.
        counts: [M] how often each row occurs, with sum N > 0; None for once each, so that N = M.
            A confusion matrix is M = K cells, each a row of the identity, with its counts.
        num_resamples: R, how many resamples to draw; all statistics see the same ones. 1000 or more
            for a stable 95 % interval.
        confidence: Share of resampled scores inside the interval, in (0, 1).
        seed: Equal seeds give equal intervals.

    Returns:
        ``(value, lo, hi)``, [J] float64 each; ``value`` is the statistic of the rows themselves.

    Raises:
        ValueError: No row, no resample, or a confidence outside (0, 1).

    Reference:
        Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    rows = rows.cpu().double()
    counts = torch.ones(len(rows)) if counts is None else counts.cpu()
    rows, counts = rows[counts > 0], counts[counts > 0].double()
    num_drawn = int(counts.sum())
    if num_drawn == 0:
        raise ValueError("an interval needs at least one row, got none")
    generator = torch.Generator().manual_seed(seed)
    # Both functions draw from the same distribution; which is faster depends on the counts.
    draw = _draw_counts
    if _BINOMIAL_COST * len(rows) > num_drawn:
        rows, draw = rows.repeat_interleave(counts.long(), dim=0), _draw_rows
        counts = torch.ones(num_drawn, dtype=torch.float64)
    size = max(1, _DRAWS_AT_ONCE // num_drawn)
    sums = [
        draw(counts, min(size, num_resamples - start), generator) @ rows
        for start in range(0, num_resamples, size)
    ]
    tail = (1.0 - confidence) / 2.0
    ends = torch.tensor([tail, 1.0 - tail], dtype=torch.float64)
    low, high = torch.nanquantile(statistic(torch.cat(sums)), ends, dim=0)
    return statistic(counts[None] @ rows)[0], low, high


def mean_interval(
    rows: Tensor, *, num_resamples: int, confidence: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the means of the columns of N rows, with their bootstrap intervals.

    If a row is a clip and a column holds the differences between two models, the interval is the
    paired interval of the difference of their scores.

    Args:
        rows: [N, J] numbers.
        num_resamples: See ``bootstrap_interval``.
        confidence: See ``bootstrap_interval``.
        seed: See ``bootstrap_interval``.

    Returns:
        ``(mean, lo, hi)``, [J] float64 each.
    """
    return bootstrap_interval(
        rows,
        lambda sums: sums / len(rows),
        num_resamples=num_resamples,
        confidence=confidence,
        seed=seed,
    )


def resolvable_difference(differences: Tensor, *, confidence: float) -> float:
    """Compute the smallest mean difference that these clips and seeds can distinguish from 0.

    It is half the width of the normal interval of the mean difference between two models:

        h = sqrt((z s_clips / sqrt(N))^2 + (t s_seeds / sqrt(K))^2)

    ``s_clips`` is the standard deviation over clips of the differences averaged over seeds, and
    ``s_seeds`` that over seeds of the differences averaged over clips; z is the normal quantile and
    t Student's with K - 1 degrees of freedom. With one seed the second term is unknown and left
    out: h then holds for these two models, not for two ways to train.

    Args:
        differences: [K, N] for K seeds and N clips: the score of one model minus the other's.
        confidence: The confidence of the interval, in (0, 1).

    Returns:
        h, in the unit of the differences.

    Raises:
        ValueError: There is no clip or no seed.

    Note:
        It holds for one pair, without a correction for the number of pairs that a table has. A true
        difference of h is seen in half of all test sets; to see it in four of five takes 1.43 h.
    """
    num_seeds, num_clips = differences.shape
    if differences.numel() == 0:
        raise ValueError(f"a difference needs clips and seeds, got {list(differences.shape)}")
    differences = differences.double()
    quantile = (1 + confidence) / 2
    of_clips = differences.mean(dim=0).std(correction=0).item() / math.sqrt(num_clips)
    clips = float(ndtri(quantile)) * of_clips
    if num_seeds == 1:
        return clips
    of_seeds = differences.mean(dim=1).std(correction=1).item() / math.sqrt(num_seeds)
    return math.hypot(clips, float(stdtrit(num_seeds - 1, quantile)) * of_seeds)


def _draw_rows(counts: Tensor, num_resamples: int, generator: torch.Generator) -> Tensor:
    """Draw N of N rows with replacement; return how often each was drawn, [R, N] float64."""
    picks = torch.randint(len(counts), (num_resamples, len(counts)), generator=generator)
    drawn = torch.zeros(num_resamples, len(counts), dtype=torch.float64)
    return drawn.scatter_add_(1, picks, counts.expand(picks.shape))


def _draw_counts(counts: Tensor, num_resamples: int, generator: torch.Generator) -> Tensor:
    """Draw how often each of M rows is drawn, [R, M] float64, at a cost that is the same for any N.

    Such counts are multinomial, and a multinomial is a chain of binomials: each row takes its share
    of what the rows before it left.
    """
    drawn = torch.zeros(num_resamples, len(counts), dtype=torch.float64)
    unseen = counts.sum()
    left = unseen.expand(num_resamples)
    for row, count in enumerate(counts):
        share = (count / unseen).clamp(max=1.0)
        drawn[:, row] = torch.binomial(left, share.expand_as(left), generator)
        left, unseen = left - drawn[:, row], unseen - count
    return drawn


def exact_at_the_ends(
    value: float, low: float, high: float, num: int, *, confidence: float
) -> tuple[float, float]:
    """Widen the interval of a proportion that is 0 or 1, since all its resamples are equal.

    With no success in n tries, success probabilities up to ``1 - (alpha / 2)^(1 / n)`` are not
    rejected, with ``alpha = 1 - confidence``; likewise for n successes.

    Args:
        value: The proportion.
        low: Lower end of its bootstrap interval.
        high: Upper end of it.
        num: n.
        confidence: The confidence of the interval.

    Returns:
        The interval; as it was unless the proportion is 0 or 1.

    Reference:
        Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of the
        binomial (Biometrika, 1934).
    """
    reach = 1.0 - ((1.0 - confidence) / 2.0) ** (1.0 / num)
    if value == 0.0:
        return low, reach
    return (1.0 - reach, high) if value == 1.0 else (low, high)


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
    """Adjust p-values for their number: Holm's step-down method, in the order given.

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
