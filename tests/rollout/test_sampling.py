"""One token a row by hand: which tokens may come, how often each does, and what never comes."""

from __future__ import annotations

import pytest
import torch
from every_case import every_case
from transformers import RepetitionPenaltyLogitsProcessor

from omni_rlvr.rollout.next_token import next_tokens, penalise

PROBS = torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15])
ALMOST_ONE = 1 - 2.0**-53
"""The largest number torch.rand gives in float64; as a float32 it is 1."""


def draw(logits: torch.Tensor, uniform, *, temperature=1.0, top_p=1.0, top_k=0) -> torch.Tensor:
    """Draws one token per uniform number from a single row of logits."""
    uniform = torch.as_tensor(uniform, dtype=torch.float64)
    rows = logits.expand(len(uniform), -1)
    return next_tokens(rows, uniform, temperature=temperature, top_p=top_p, top_k=top_k)


def shares(logits: torch.Tensor, **settings) -> torch.Tensor:
    """How often each token comes over an even grid of uniform numbers: exact to 1 in 20000."""
    uniform = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    drawn = draw(logits, uniform, **settings)
    return torch.bincount(drawn, minlength=len(logits)) / len(drawn)


def test_greedy_takes_the_most_probable_whatever_the_number():
    logits = torch.tensor([[0.1, 3.0, 2.9], [5.0, -1.0, 4.0]])
    for uniform in (0.0, 0.5, ALMOST_ONE):
        numbers = torch.full((2,), uniform, dtype=torch.float64)
        got = next_tokens(logits, numbers, temperature=0, top_p=0.1, top_k=1)
        assert got.tolist() == [1, 0]


def test_the_number_is_looked_up_in_the_cumulative_distribution():
    # Cumulative: 0.05, 0.45, 0.55, 0.85, 1.
    uniform = [0.0, 0.049, 0.051, 0.449, 0.451, 0.549, 0.551, 0.849, 0.851, 0.999]
    assert draw(PROBS.log(), uniform).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_shares_equal_softmax():
    logits = torch.randn(40, generator=torch.Generator().manual_seed(0)) * 2
    torch.testing.assert_close(shares(logits), logits.softmax(0), atol=1e-4, rtol=0)


def test_random_numbers_give_the_distribution():
    uniform = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount(draw(PROBS.log(), uniform), minlength=5)
    # Four standard errors: sqrt(0.4 * 0.6 / 200000) = 0.0011.
    torch.testing.assert_close(counts / 200_000, PROBS, atol=0.0044, rtol=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_divides_the_logits(temperature):
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    expected = (logits / temperature).softmax(0)
    torch.testing.assert_close(shares(logits, temperature=temperature), expected, atol=1e-4, rtol=0)


@every_case(
    ("top_k", "kept"),
    [
        (1, [1]),
        (2, [1, 3]),
        (3, [1, 3, 4]),
        (5, [0, 1, 2, 3, 4]),
        (0, [0, 1, 2, 3, 4]),
        (99, [0, 1, 2, 3, 4]),
    ],
)
def test_top_k_keeps_the_most_probable_and_renormalises(top_k, kept):
    expected = torch.zeros(5)
    expected[kept] = PROBS[kept] / PROBS[kept].sum()
    torch.testing.assert_close(shares(PROBS.log(), top_k=top_k), expected, atol=1e-4, rtol=0)


@every_case(
    ("top_p", "kept"),
    [
        (0.01, [1]),  # never fewer than one token
        (0.39, [1]),
        (0.41, [1, 3]),  # 0.4 falls short, 0.4 + 0.3 reaches it
        (0.69, [1, 3]),
        (0.71, [1, 3, 4]),
        (0.86, [1, 2, 3, 4]),
        (0.96, [0, 1, 2, 3, 4]),
        (1.0, [0, 1, 2, 3, 4]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, kept):
    expected = torch.zeros(5)
    expected[kept] = PROBS[kept] / PROBS[kept].sum()
    torch.testing.assert_close(shares(PROBS.log(), top_p=top_p), expected, atol=1e-4, rtol=0)


def test_temperature_comes_before_top_p_as_in_transformers():
    # Odds 4 : 1 at tau 2 are 2 : 1, so 0.7 needs both tokens; at tau 1 the first has 0.8 alone.
    logits = torch.tensor([4.0, 1.0]).log()
    assert shares(logits, top_p=0.7)[1] == 0
    expected = torch.tensor([2 / 3, 1 / 3])
    got = shares(logits, top_p=0.7, temperature=2.0)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_top_k_comes_before_top_p_as_in_transformers():
    # Of 0.4, 0.3, 0.15 the first holds 0.47: 0.45 needs it alone. Of all five it needs two.
    assert shares(PROBS.log(), top_k=3, top_p=0.45)[3] == 0
    assert shares(PROBS.log(), top_p=0.45)[3] > 0


@every_case("uniform", [0.0, 1e-300, 0.5, 1 - 2.0**-24, 1 - 2.0**-30, ALMOST_ONE])
@every_case("settings", [{}, {"top_k": 2}, {"top_p": 0.6}, {"temperature": 0.7}])
def test_a_token_without_probability_never_comes(uniform, settings):
    # Impossible tokens first, last and between, in a vocabulary whose float32 sum is not 1.
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    impossible = torch.tensor([0, 1, 777, 2500, 4990, 4998, 4999])
    logits[impossible] = float("-inf")
    assert draw(logits, [uniform], **settings).item() not in impossible


@every_case("settings", [{"top_k": 3}, {"top_p": 0.3}])
@every_case("uniform", [0.0, ALMOST_ONE])
def test_a_token_that_was_cut_never_comes(uniform, settings):
    # The kept tokens 3, 4, 5 lie in the middle: both ends of the distribution are cut.
    logits = torch.tensor([0.0, 0, 0, 5, 5.1, 5.2, 0, 0])
    assert draw(logits, [uniform], **settings).item() in (3, 4, 5)


def test_a_row_depends_on_its_own_number_alone():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 50, generator=generator)
    uniform = torch.rand(12, generator=generator, dtype=torch.float64)
    settings = {"temperature": 0.9, "top_p": 0.8, "top_k": 20}
    whole = next_tokens(logits, uniform, **settings)
    some = torch.tensor([7, 0, 11])
    assert torch.equal(next_tokens(logits[some], uniform[some], **settings), whole[some])


def test_half_precision_logits_are_sampled_in_full():
    # 5000 equal tokens: a float16 cumulative sum would stop growing long before 1.
    drawn = draw(torch.zeros(5000, dtype=torch.float16), [0.1, 0.5, 0.9])
    assert drawn.tolist() == pytest.approx([500, 2500, 4500], abs=3)


def test_penalise_by_hand():
    # Tokens 0 and 1 were seen, 1 twice: 3 / 2 and -1 * 2; the second row saw token 2: 0 stays.
    logits = torch.tensor([[3.0, -1.0, 2.0], [1.0, 1.0, 0.0]])
    seen = torch.tensor([[0, 1, 1], [2, 2, 2]])
    assert penalise(logits, seen, 2.0).tolist() == [[1.5, -2.0, 2.0], [1.0, 1.0, 0.0]]
    assert torch.equal(penalise(logits, seen[:, :0], 2.0), logits)


def test_penalise_equals_transformers():
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
    seen = torch.randint(0, 9, (3, 5), generator=torch.Generator().manual_seed(1))
    expected = RepetitionPenaltyLogitsProcessor(1.4)(seen, logits.clone())
    torch.testing.assert_close(penalise(logits, seen, 1.4), expected)
