"""Paired tests: by hand, against scipy, and what must not change them."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from every_case import every_case

from omni_rlvr.functional.bootstrap import (
    bootstrap_interval,
    exact_at_the_ends,
    holm,
    mcnemar_exact,
    mean_interval,
    resolvable_difference,
)


def means(rows: torch.Tensor, *, num_resamples: int = 2000, confidence: float = 0.95, seed=0):
    """Means of the columns with their intervals."""
    return mean_interval(rows, num_resamples=num_resamples, confidence=confidence, seed=seed)


def interval(differences: torch.Tensor, **how):
    """Ends of the intervals of K comparisons on N clips, [K, N]."""
    _, low, high = means(differences.T, **how)
    return low, high


@every_case(
    ("first", "second", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * C(1,0) / 2
        (5, 0, 0.0625),  # 2 * 1 / 32
        (0, 5, 0.0625),
        (8, 2, 0.109375),  # 2 * (1 + 10 + 45) / 1024
        (3, 3, 1.0),  # 2 * (1 + 6 + 15 + 20) / 64 > 1
    ],
)
def test_mcnemar_by_hand(first: int, second: int, p: float) -> None:
    assert mcnemar_exact(first, second) == pytest.approx(p)


@pytest.mark.parametrize(("first", "second"), [(12, 30), (250, 180), (2000, 1900)])
def test_mcnemar_is_the_binomial_test(first: int, second: int) -> None:
    oracle = scipy.stats.binomtest(first, first + second, 0.5).pvalue
    assert mcnemar_exact(first, second) == pytest.approx(oracle, rel=1e-9)


def test_the_interval_is_scipys() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randint(-1, 2, (400,), generator=generator).double()
    low, high = interval(values[None], num_resamples=20_000)
    oracle = scipy.stats.bootstrap(
        (values.numpy(),), lambda x, axis: x.mean(axis=axis), n_resamples=20_000,
        method="percentile", rng=0, vectorized=True,
    ).confidence_interval  # fmt: skip
    # one clip moves the mean by 1 / 400; both ends are quantiles of the same distribution
    assert low[0].item() == pytest.approx(oracle.low, abs=0.004)
    assert high[0].item() == pytest.approx(oracle.high, abs=0.004)


def test_the_interval_is_as_wide_as_theory_says() -> None:
    values = torch.tensor([1.0] * 50 + [-1.0] * 50)
    low, high = interval(values[None], num_resamples=20_000)
    width = 2 * 1.96 * 1 / math.sqrt(100)  # std 1 over 100 clips: 0.392
    assert (high - low).item() == pytest.approx(width, rel=0.03)


def test_no_difference_is_a_point_and_a_shift_moves_both_ends() -> None:
    low, high = interval(torch.zeros(1, 10))
    assert low.item() == high.item() == 0
    values = torch.randn(1, 50, generator=torch.Generator().manual_seed(0)).double()
    ends, moved = torch.stack(interval(values)), torch.stack(interval(values + 3))
    torch.testing.assert_close(moved, ends + 3)


def test_comparisons_do_not_change_each_other() -> None:
    values = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)).double()
    together = interval(values)
    for k in range(3):
        alone = interval(values[k : k + 1])
        for end, whole in zip(alone, together, strict=True):
            torch.testing.assert_close(end[0], whole[k])


def test_the_seed_decides_and_the_sign_mirrors() -> None:
    values = torch.randn(1, 30, generator=torch.Generator().manual_seed(0)).double()
    assert interval(values)[0] == interval(values)[0]
    assert interval(values)[0] != interval(values, seed=1)[0]
    low, high = interval(values)
    torch.testing.assert_close(torch.stack(interval(-values)), torch.stack([-high, -low]))


@every_case(
    ("num_rows", "how", "message"),
    [
        (0, {}, "at least one row, got none"),
        (2, {"num_resamples": 0}, "num_resamples must be at least 1, got 0"),
        (2, {"confidence": 1.0}, "confidence must lie in"),
        (2, {"confidence": 0.0}, "confidence must lie in"),
    ],
)
def test_what_has_no_interval_is_refused(num_rows: int, how: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        means(torch.zeros(num_rows, 1), **how)


def test_columns_are_drawn_together() -> None:
    values = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([values, 1 - values], dim=1)
    found = bootstrap_interval(
        rows,
        lambda sums: sums.sum(dim=1, keepdim=True) / 30,
        num_resamples=20,
        confidence=0.95,
        seed=0,
    )
    torch.testing.assert_close(torch.cat(found), torch.ones(3).double())


def test_rows_that_repeat_give_the_interval_of_their_copies() -> None:
    """Few kinds of rows are drawn as counts, many as rows: one distribution."""
    kinds, counts = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([200, 150, 50])
    copies = kinds.repeat_interleave(counts, dim=0)
    kept = {"num_resamples": 20_000, "confidence": 0.95, "seed": 0}
    few = bootstrap_interval(kinds, lambda sums: sums / 400, counts=counts, **kept)
    many = bootstrap_interval(copies, lambda sums: sums / 400, **kept)
    # The mean is (150 + 250) / 400 = 1; E[x^2] = (150 + 1250) / 400 = 3.5, so that its standard
    # error is sqrt(2.5 / 400) = 0.079 and its ends are 1 -+ 1.96 * 0.079.
    for found in (few, many):
        assert found[0].item() == 1.0
        assert found[1].item() == pytest.approx(1 - 0.155, abs=0.008)
        assert found[2].item() == pytest.approx(1 + 0.155, abs=0.008)


def test_a_ratio_leaves_resamples_without_a_denominator_out() -> None:
    rows = torch.tensor([[1.0, 1.0], [0.0, 0.0]])  # a quarter of the resamples is 0 / 0
    value, low, high = bootstrap_interval(
        rows, lambda sums: sums[:, :1] / sums[:, 1:], num_resamples=50, confidence=0.9, seed=0
    )
    assert (value.item(), low.item(), high.item()) == (1.0, 1.0, 1.0)


def test_the_global_stream_is_left_alone() -> None:
    before = torch.get_rng_state()
    means(torch.ones(5, 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.03, 0.04: times 3, 2, 1 is 0.03, 0.06, 0.04; never below the one before
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.slow
@pytest.mark.parametrize("num_clips", [150, 500])
def test_paired_intervals_cover_the_true_difference(num_clips: int) -> None:
    """1,000 test sets: in at least 93 % of them the 95 % interval holds the true difference.

    The second model alone is right on 20 % of all clips and the first alone on 12 %, so that the
    true difference is 8 points.
    """
    chances = torch.tensor([0.12, 0.68, 0.20])
    generator = torch.Generator().manual_seed(0)
    picks = torch.multinomial(chances.expand(1000, 3), num_clips, True, generator=generator)
    low, high = interval(picks.double() - 1, num_resamples=1000)
    covered = ((low <= 0.08) & (high >= 0.08)).double().mean().item()
    assert 0.93 <= covered <= 0.975


def test_the_resolvable_difference_by_hand() -> None:
    # One seed, 4 clips: differences 1, 0, 0, -1, mean 0, variance 2/4; h = 1.96 sqrt(0.5 / 4).
    one_seed = torch.tensor([[1.0, 0, 0, -1]])
    expected = 1.959964 * math.sqrt(0.5 / 4)
    assert resolvable_difference(one_seed, confidence=0.95) == pytest.approx(expected, rel=1e-6)
    # Two seeds that agree on every clip add nothing over seeds: t * 0.
    same = one_seed.expand(2, 4)
    assert resolvable_difference(same, confidence=0.95) == pytest.approx(expected, rel=1e-6)
    # Seeds' means 0.5 and 0 differ by 0.5: s = 0.5 / sqrt(2), t(1 degree) = 12.7062, K = 2.
    # Means over seeds of the clips are 1, 0.5, 0, -0.5: variance 0.3125.
    two = torch.tensor([[1.0, 1, 0, 0], [1.0, 0, 0, -1]])
    seeds = 12.7062047 * 0.5 / math.sqrt(2) / math.sqrt(2)
    expected = math.hypot(1.959964 * math.sqrt(0.3125 / 4), seeds)
    assert resolvable_difference(two, confidence=0.95) == pytest.approx(expected, rel=1e-6)


def test_a_larger_difference_than_the_resolvable_one_is_outside_chance() -> None:
    """Of 1,000 pairs of equal models, about 5 % differ by more than what is said to be chance."""
    chances = torch.tensor([0.15, 0.7, 0.15])
    generator = torch.Generator().manual_seed(1)
    picks = torch.multinomial(chances.expand(1000, 3), 400, True, generator=generator) - 1.0
    beyond = [
        abs(row.mean().item()) > resolvable_difference(row[None], confidence=0.95) for row in picks
    ]
    assert 0.03 <= sum(beyond) / len(beyond) <= 0.07


@pytest.mark.parametrize("num", [1, 7, 500])
def test_the_ends_of_an_interval_are_scipys_exact_ones(num: int) -> None:
    for hits in (0, num):
        exact = scipy.stats.binomtest(hits, num).proportion_ci(0.95, "exact")
        ours = exact_at_the_ends(hits / num, hits / num, hits / num, num, confidence=0.95)
        assert ours == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert exact_at_the_ends(0.5, 0.4, 0.6, num, confidence=0.95) == (0.4, 0.6)
