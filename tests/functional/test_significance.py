"""Paired tests: by hand, against scipy, and what must not change them."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch

from omni_rlvr.functional.bootstrap import holm, mcnemar_exact, paired_bootstrap


def interval(differences: torch.Tensor, num_resamples: int = 2000, seed: int = 0):
    return paired_bootstrap(differences, num_resamples=num_resamples, confidence=0.95, seed=seed)


@pytest.mark.parametrize(
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


@pytest.mark.parametrize(
    ("shape", "num_resamples", "confidence"), [((1, 0), 10, 0.9), ((1, 2), 0, 0.9), ((1, 2), 9, 1)]
)
def test_what_has_no_interval_is_refused(shape, num_resamples: int, confidence: float) -> None:
    with pytest.raises(ValueError):
        paired_bootstrap(
            torch.zeros(shape), num_resamples=num_resamples, confidence=confidence, seed=0
        )


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.03, 0.04: times 3, 2, 1 is 0.03, 0.06, 0.04; never below the one before
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
