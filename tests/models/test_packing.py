"""The layout of a packed row by hand, and products with layers' weights."""

import torch
from every_case import every_case
from torch.nn import functional as F

from omni_rlvr.models.prefix.cpu_float32.gemm import linear, pack
from omni_rlvr.models.prefix.packing import Packed


def places(block) -> list[tuple[int, int]]:
    """Prompts' keys and queries, completions' keys and queries."""
    slices = (block.prompt, block.asking, block.rest, block.rest_asking)
    return [(s.start, s.stop) for s in slices]


def test_packed_rows_by_hand():
    # Prompt of 2, rows of 3, 0 and 1; prompt of 1 with a row of 2: p p a a a b | q c c.
    packed = Packed([2, 1], [[3, 0, 1], [2]])
    assert (packed.starts, packed.row_starts) == ([0, 6], [[2, 5], [7]])
    first, second = packed.blocks
    assert places(first) == [(0, 2), (0, 2), (2, 6), (2, 6)]
    assert (first.num_prompts, first.num_rows, first.width, first.causal) == (1, 2, 3, True)
    assert first.pad.tolist() == [0, 1, 2, 3, 0, 0]  # the last two are padding
    assert first.unpad.tolist() == [0, 1, 2, 3]
    assert places(second) == [(6, 9), (6, 9), (9, 9), (9, 9)]  # one causal stretch
    assert (second.num_rows, second.pad) == (0, None)


def test_the_tail_of_a_packed_row_by_hand():
    # The same rows; what predicts is the last p, a a a b, then q and c c.
    packed = Packed([2, 1], [[3, 0, 1], [2]])
    assert packed.tail.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    first, second = packed.tail_blocks
    assert places(first) == [(0, 2), (0, 1), (2, 6), (1, 5)]
    assert places(second) == [(6, 7), (5, 6), (7, 9), (6, 8)]
    assert (second.causal, second.num_rows, second.width, second.pad) == (False, 1, 2, None)


def test_equal_prompts_are_one_block_by_hand():
    # Prompts of 2 with rows of 1 and 2, of 1, and of 3 and 1: p p q q a b b c c c d | r r e
    packed = Packed([2, 2, 2], [[1, 2], [1], [3, 0, 1]])
    assert (packed.starts, packed.row_starts) == ([0, 11, 2], [[4, 5], [13], [7, 10]])
    first, second = packed.blocks
    assert places(first) == [(0, 4), (0, 4), (4, 11), (4, 11)]
    assert (first.num_prompts, first.num_rows, first.width) == (2, 4, 3)
    assert first.pad.tolist() == [0, 0, 0, 1, 2, 0, 3, 4, 5, 6, 0, 0]
    assert packed.tail.tolist() == [1, 3, *range(4, 11), 12, 13]
    assert places(packed.tail_blocks[0]) == [(0, 4), (0, 2), (4, 11), (2, 9)]
    assert places(packed.tail_blocks[1]) == [(11, 13), (9, 10), (13, 14), (10, 11)]
    assert places(second) == [(11, 14), (11, 14), (14, 14), (14, 14)]


@every_case(("sizes", "blocks"), [((5, 5, 5), 1), ((5, 6, 5), 2), ((5, 5, 6), 2), ((300, 300), 2)])
def test_which_prompts_are_one_block(sizes, blocks):
    assert len(Packed(sizes, [[]] * len(sizes)).blocks) == blocks
    assert len(Packed(sizes, [[1, 1]] * len(sizes)).blocks) == blocks


@every_case("rows", [1, 16, 300])
@every_case("has_bias", [True, False])
@every_case("has_residual", [True, False])
@every_case("dtype", [torch.float32, torch.bfloat16])
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
