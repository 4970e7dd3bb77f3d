"""Bootstrap of means: constants, the normal approximation, and columns that stay together."""

from __future__ import annotations

import pytest
import torch

from omni_rlvr.functional import bootstrap
from omni_rlvr.functional.bootstrap import percentile_interval, resampled_means


def test_a_constant_has_no_spread():
    draws = resampled_means(torch.full((7, 1), 3.0), num_resamples=50, seed=0)
    assert percentile_interval(draws[:, 0], confidence=0.95) == (3.0, 3.0)


def test_close_to_the_normal_interval():
    values = torch.randn(400, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    draws = resampled_means(values, num_resamples=4000, seed=0)
    low, high = percentile_interval(draws[:, 0], confidence=0.95)
    half = 1.96 * values.std().item() / 20  # sqrt(400)
    assert low == pytest.approx(values.mean().item() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean().item() + half, abs=0.15 * half)


def test_columns_are_drawn_together():
    values = torch.randn(30, 1, generator=torch.Generator().manual_seed(0))
    draws = resampled_means(torch.cat([values, 1 - values], dim=1), num_resamples=20, seed=0)
    assert torch.allclose(draws.sum(dim=1), torch.ones(20).double())


def test_seed_decides_and_chunks_do_not_repeat(monkeypatch):
    values = torch.arange(10.0).unsqueeze(1)
    monkeypatch.setattr(bootstrap, "CHUNK", 30)  # three resamples at once
    first, again = (resampled_means(values, num_resamples=10, seed=3) for _ in range(2))
    assert first.shape == (10, 1)
    assert torch.equal(first, again)
    assert len(first.unique()) > 5
    assert not torch.equal(first, resampled_means(values, num_resamples=10, seed=4))


def test_nothing_to_resample_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        resampled_means(torch.zeros(0, 2), num_resamples=5, seed=0)
