"""Masks by hand and against the reference: 1 up to and including the first end token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from every_case import every_case
from safetensors.torch import load_file

from omni_rlvr.functional.masks import completion_mask, lengths, position_ids

PARITY = Path(__file__).parents[1] / "fixtures" / "parity_A"
EOS = 9


@every_case(
    ("ids", "mask"),
    [
        ([4, 5, 9, 6, 7], [1, 1, 1, 0, 0]),  # the end token counts, what follows does not
        ([4, 5, 6, 7, 8], [1, 1, 1, 1, 1]),  # no end token: truncated, all count
        ([9, 4, 5, 6, 7], [1, 0, 0, 0, 0]),  # ends at once
        ([4, 9, 5, 9, 9], [1, 1, 0, 0, 0]),  # only the first end token matters
        ([4, 5, 6, 7, 9], [1, 1, 1, 1, 1]),  # ends at the last place
        ([9, 9, 9, 9, 9], [1, 0, 0, 0, 0]),
    ],
)
def test_completion_mask_by_hand(ids, mask):
    got = completion_mask(torch.tensor([ids]), eos_token_ids=[EOS])
    assert got.tolist() == [mask]
    assert got.dtype == torch.int64


def test_tokens_after_the_end_change_no_mask():
    ids = torch.randint(20, (50, 12), generator=torch.Generator().manual_seed(0))
    mask = completion_mask(ids, eos_token_ids=[EOS])
    other = torch.where(mask.bool(), ids, (ids + 3) % 20)
    assert not torch.equal(other, ids)
    assert torch.equal(completion_mask(other, eos_token_ids=[EOS]), mask)


def test_rows_do_not_see_each_other():
    ids = torch.randint(12, (20, 8), generator=torch.Generator().manual_seed(1))
    alone = [completion_mask(row.unsqueeze(0), eos_token_ids=[EOS]) for row in ids]
    assert torch.equal(completion_mask(ids, eos_token_ids=[EOS]), torch.cat(alone))


def test_position_ids_by_hand():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 0, 0]])
    # Cumulative counts minus one: [-1,-1,0,1,2] -> [0,0,0,1,2]; right padding keeps the last.
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [0, 0, 1, 1, 1]]


def test_lengths_by_hand():
    got = lengths(torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]]))
    assert got.tolist() == [2.0, 1.0, 3.0]
    assert got.dtype == torch.float32


@pytest.mark.parametrize("case", ["s0", "s1", "e2e"])
def test_mask_of_the_reference(case):
    data = load_file(PARITY / "grpo.safetensors")
    mask = completion_mask(data[f"{case}.completion_ids"], eos_token_ids=[126])
    assert torch.equal(mask, data[f"{case}.completion_mask"])
