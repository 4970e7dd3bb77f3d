"""The repetition penalty by hand, and against transformers' own."""

from __future__ import annotations

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from omni_rlvr.functional.penalties import repetition_penalty


def test_by_hand():
    # token 0 seen: 3 / 1.5 = 2; token 1 seen: -2 * 1.5 = -3; token 2 not; token 3 masked away
    logits = torch.tensor([[3.0, -2.0, 5.0, 4.0]])
    ids, mask = torch.tensor([[0, 1, 1, 3]]), torch.tensor([[1, 1, 1, 0]])
    got = repetition_penalty(logits, ids, mask, penalty=1.5)
    torch.testing.assert_close(got, torch.tensor([[2.0, -3.0, 5.0, 4.0]]))
    assert logits[0, 0] == 3  # not changed in place


@pytest.mark.parametrize("penalty", [1.0, 1.1, 0.5])
def test_as_transformers(penalty):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 50, generator=generator)
    ids = torch.randint(50, (5, 20), generator=generator)
    wanted = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    got = repetition_penalty(logits, ids, torch.ones_like(ids), penalty=penalty)
    torch.testing.assert_close(got, wanted)
    assert torch.equal(got, logits) == (penalty == 1)


def test_nothing_generated_yet():
    logits = torch.randn(2, 4)
    none = torch.zeros(2, 0, dtype=torch.long)
    assert torch.equal(repetition_penalty(logits, none, none, penalty=2.0), logits)
