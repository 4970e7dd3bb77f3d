"""Log-probabilities and entropies by hand, against torch's softmax, and what changes none."""

from __future__ import annotations

import math

import pytest
import torch
from every_case import every_case

from omni_rlvr.functional.logprobs import per_token_entropy, per_token_logps, token_scores


def some_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


def test_logps_by_hand():
    # exp of the logits: 1, 2, 5, of 8 together. Token 2: log 5/8; token 0: log 1/8.
    logits = torch.tensor([1.0, 2.0, 5.0]).log().expand(1, 2, 3)
    logps = per_token_logps(logits, torch.tensor([[2, 0]]), temperature=1.0)
    assert logps[0].tolist() == pytest.approx([math.log(5 / 8), math.log(1 / 8)], abs=1e-6)


def test_temperature_by_hand():
    # log 4 / 2 = log 2, log 1 / 2 = 0: odds of 2 to 1 instead of 4 to 1.
    logits = torch.tensor([[[1.0, 4.0]]]).log()
    logps = per_token_logps(logits, torch.tensor([[1]]), temperature=2.0)
    assert logps.item() == pytest.approx(math.log(2 / 3), abs=1e-6)


def test_logps_equal_log_softmax():
    logits, ids = some_logits(4, 7, 31), torch.arange(28).view(4, 7)
    expected = (logits / 0.7).log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(per_token_logps(logits, ids, temperature=0.7), expected)


def test_a_constant_on_all_logits_changes_nothing():
    logits, ids = some_logits(2, 3, 11), torch.tensor([[0, 5, 10], [1, 1, 1]])
    moved = logits + torch.tensor([[[100.0], [-7.0], [3.0]]])
    for got, expected in (
        (per_token_logps(moved, ids, temperature=1), per_token_logps(logits, ids, temperature=1)),
        (per_token_entropy(moved, temperature=1), per_token_entropy(logits, temperature=1)),
    ):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_large_logits_stay_finite():
    logits = torch.tensor([[[1e4, 0.0, -1e4]]])
    assert per_token_logps(logits, torch.tensor([[0]]), temperature=1).item() == 0
    assert per_token_logps(logits, torch.tensor([[1]]), temperature=1).item() == -1e4
    assert per_token_entropy(logits, temperature=1).item() == 0


def test_half_precision_is_computed_in_float32():
    logits, ids = some_logits(2, 3, 50).bfloat16(), torch.tensor([[0, 9, 49], [3, 3, 3]])
    logps = per_token_logps(logits, ids, temperature=1)
    assert logps.dtype == torch.float32
    assert torch.equal(logps, per_token_logps(logits.float(), ids, temperature=1))
    assert per_token_entropy(logits, temperature=1).dtype == torch.float32


def test_gradient_is_one_hot_minus_softmax():
    logits = some_logits(1, 1, 5).requires_grad_()
    per_token_logps(logits, torch.tensor([[3]]), temperature=2.0).sum().backward()
    one_hot = torch.tensor([0.0, 0, 0, 1, 0])
    expected = (one_hot - (logits.detach() / 2).softmax(-1)) / 2
    torch.testing.assert_close(logits.grad, expected)


def test_entropy_by_hand():
    # Even over 8: log 8. Odds 1, 1, 2: 2 * 1/4 log 4 + 1/2 log 2 = 1.5 log 2.
    assert per_token_entropy(torch.zeros(1, 1, 8), temperature=1).item() == pytest.approx(
        math.log(8)
    )
    odds = torch.tensor([[[1.0, 1.0, 2.0]]]).log()
    assert per_token_entropy(odds, temperature=1).item() == pytest.approx(1.5 * math.log(2))


def test_entropy_is_the_mean_of_minus_log_p():
    logits = some_logits(1, 1, 6)
    logps = per_token_logps(logits.expand(6, 1, 6), torch.arange(6).view(6, 1), temperature=1.3)
    entropy = per_token_entropy(logits, temperature=1.3)
    torch.testing.assert_close(entropy.squeeze(), -(logps.exp() * logps).sum())


def test_higher_temperature_gives_more_entropy():
    logits = some_logits(3, 4, 20)
    cool, warm = (per_token_entropy(logits, temperature=t) for t in (0.5, 2.0))
    assert (warm > cool).all()


def scored(chunk_size: int, seen: list[int] | None = None, *, entropy_gradient: bool = False):
    """Scores 10 tokens from hidden states of 6 over 13 words; gradients of a weighted sum."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 6, generator=generator).requires_grad_()
    head = torch.nn.Linear(6, 13)
    with torch.no_grad():
        head.weight.copy_(torch.randn(13, 6, generator=generator))
        head.bias.copy_(torch.randn(13, generator=generator))
    if seen is not None:
        head.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    ids = torch.randint(0, 13, (10,), generator=generator)
    scores = token_scores(
        hidden,
        ids,
        head,
        temperature=0.7,
        entropy_gradient=entropy_gradient,
        chunk_size=chunk_size,
    )
    loss = (scores.logps * torch.arange(10)).sum()
    if entropy_gradient:
        loss = loss + (scores.entropy * torch.arange(10)).sum()
    loss.backward()
    return scores, (hidden.grad, head.weight.grad, head.bias.grad), head(hidden), ids


def test_token_scores_are_those_of_the_logits():
    scores, _, logits, ids = scored(10)
    logits, ids = logits.unsqueeze(0), ids.unsqueeze(0)
    expected = per_token_logps(logits, ids, temperature=0.7)[0]
    torch.testing.assert_close(scores.logps, expected)
    torch.testing.assert_close(scores.entropy, per_token_entropy(logits, temperature=0.7)[0])
    assert torch.equal(scores.is_top, (logits.argmax(dim=-1) == ids)[0])
    assert scores.is_top.any()
    assert not scores.entropy.requires_grad


def test_the_entropy_has_a_gradient_where_it_is_asked_for():
    _, grads, _, ids = scored(10, entropy_gradient=True)
    _, without, _, _ = scored(10)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(10, 6, generator=generator).requires_grad_()
    weight, bias = torch.randn(13, 6, generator=generator), torch.randn(13, generator=generator)
    logits = (hidden @ weight.T + bias).unsqueeze(0)
    both = per_token_logps(logits, ids.unsqueeze(0), temperature=0.7)
    both = both + per_token_entropy(logits, temperature=0.7)
    (both * torch.arange(10)).sum().backward()
    # To rounding: the oracle adds up p log p, in another order.
    assert (grads[0] - hidden.grad).norm() < 1e-5 * hidden.grad.norm()
    assert (grads[0] - without[0]).norm() > 0.1 * hidden.grad.norm()


@every_case("entropy_gradient", [False, True])
@every_case("chunk_size", [1, 3, 9])
def test_chunks_change_neither_scores_nor_gradients(chunk_size, entropy_gradient):
    (whole, grads, _, _), seen = scored(10, entropy_gradient=entropy_gradient), []
    parts, part_grads, _, _ = scored(chunk_size, seen, entropy_gradient=entropy_gradient)
    for got, expected in zip((*parts, *part_grads), (*whole, *grads), strict=True):
        torch.testing.assert_close(got, expected)
    assert max(seen[:-1]) == chunk_size  # the last call is that of the test itself
    assert sum(seen[:-1]) == 20  # once forward, once more in backward


def confident(margins: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n, 500] whose token 7 stands above all others by a margin, and ids of that token."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(len(margins), 500, generator=generator)
    logits[:, 7] = logits.amax(dim=1) + margins
    return logits, torch.full((len(margins),), 7)


def test_small_numbers_keep_their_digits() -> None:
    logits, ids = confident(torch.linspace(0, 30, 61))
    logits.requires_grad_()
    scores = token_scores(
        logits, ids, lambda x: x, temperature=1.0, entropy_gradient=True, chunk_size=100
    )
    wide = logits.detach().double()
    distance = wide[:, 7:8] - wide
    others = (-distance).exp().index_fill(1, torch.tensor([7]), 0.0)
    rest = others.sum(dim=1)
    logps, entropy = -rest.log1p(), rest.log1p() + (others * distance).sum(dim=1) / (1 + rest)
    assert float(logps[-1]) > -1e-10  # far below float32's step at 1
    for seen, wanted in ((scores.logps, logps), (scores.entropy, entropy)):
        torch.testing.assert_close(seen.double(), wanted, rtol=4e-7, atol=0)
    (gradient,) = torch.autograd.grad(scores.logps.sum(), logits, retain_graph=True)
    wanted = -others / (1 + rest).unsqueeze(1)
    wanted[:, 7] = rest / (1 + rest)  # 1 - p, not rounded to 0
    torch.testing.assert_close(gradient.double(), wanted, rtol=4e-6, atol=0)  # exp of rounded -30
    (gradient,) = torch.autograd.grad(scores.entropy.sum(), logits)
    slope = (others * distance).sum(dim=1, keepdim=True) / (1 + rest).unsqueeze(1)
    wanted = others / (1 + rest).unsqueeze(1) * (distance - slope)
    wanted[:, 7] = (-slope / (1 + rest).unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=5e-9)


def test_all_forms_agree_with_autograd_of_the_plain_one() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40, 30, generator=generator)
    ids = torch.randint(30, (40,), generator=generator)
    weights = torch.randn(2, 40, generator=generator)
    ours, plain = logits.clone().requires_grad_(), logits.double().requires_grad_()
    scores = token_scores(
        ours, ids, lambda x: x, temperature=0.7, entropy_gradient=True, chunk_size=7
    )
    (scores.logps @ weights[0] + scores.entropy @ weights[1]).backward()
    log_p = (plain / 0.7).log_softmax(dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    chosen = log_p.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    (chosen @ weights[0].double() + entropy @ weights[1].double()).backward()
    torch.testing.assert_close(scores.logps.double(), chosen, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.grad.double(), plain.grad, rtol=1e-5, atol=2e-6)
    assert torch.equal(per_token_entropy(logits, temperature=0.7), scores.entropy)
    assert torch.equal(per_token_logps(logits, ids, temperature=0.7), scores.logps)
    assert torch.equal(scores.is_top, logits.argmax(dim=-1) == ids)
