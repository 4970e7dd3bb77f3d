"""The layout of a packed row by hand, and products with layers' weights."""

import pytest
import torch
from torch.nn import functional as F

from omni_rlvr.models.packing import Packed
from omni_rlvr.models.products import linear, pack


def test_packed_rows_by_hand():
    # Prompt of 2, rows of 3, 0 and 1; prompt of 1 with a row of 2: p p a a a b | q c c.
    packed = Packed([2, 1], [[3, 0, 1], [2]])
    first, second = packed.segments
    assert (first.prompt, first.asking) == (slice(0, 2), slice(0, 2))
    assert (first.rest, first.rest_asking) == (slice(2, 6), slice(2, 6))
    assert (second.prompt, second.num_rows) == (slice(6, 9), 0)  # one causal stretch
    assert (first.num_rows, first.width) == (2, 3)
    assert first.pad.tolist() == [0, 1, 2, 3, 0, 0]  # the last two are padding
    assert first.unpad.tolist() == [0, 1, 2, 3]
    assert second.pad is None


def test_the_tail_of_a_packed_row_by_hand():
    # The same rows; what predicts is the last p, a a a b, then q and c c.
    packed = Packed([2, 1], [[3, 0, 1], [2]])
    assert packed.tail.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    first, second = packed.tail_segments
    assert (first.prompt, first.asking, first.causal) == (slice(0, 2), slice(0, 1), False)
    assert (first.rest, first.rest_asking) == (slice(2, 6), slice(1, 5))
    assert (second.prompt, second.asking) == (slice(6, 7), slice(5, 6))
    assert (second.rest, second.rest_asking) == (slice(7, 9), slice(6, 8))
    assert (second.num_rows, second.width, second.pad) == (1, 2, None)


@pytest.mark.parametrize("rows", [1, 16, 300])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("has_residual", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_equal_torchs(rows, has_bias, has_residual, dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 48, generator=generator).to(dtype)
    weight, bias = torch.randn(80, 49, generator=generator).to(dtype).split([48, 1], dim=1)
    bias = bias[:, 0].contiguous() if has_bias else None
    residual = torch.randn(rows, 80, generator=generator).to(dtype) if has_residual else None
    expected = F.linear(x, weight, bias) + (residual if has_residual else 0)
    for given in (weight, weight.contiguous(), pack(weight, rows)):
        torch.testing.assert_close(linear(x, given, bias, residual), expected, atol=1e-5, rtol=1e-5)


def test_a_product_of_no_rows_has_none():
    assert linear(torch.ones(0, 4), torch.ones(3, 4)).shape == (0, 3)
