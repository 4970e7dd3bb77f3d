"""Every loss type: shares that add up, normalisers by hand, masks, bonus, first update."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from every_case import every_case
from torch import Tensor

from omni_rlvr.functional.objective import (
    LOSS_TYPES,
    MinibatchCounts,
    Tokens,
    aggregate,
    modality_contrast,
    policy_objective,
    top_entropy_mask,
)
from omni_rlvr.stages.base import add_up

SETTINGS = {
    "loss_type": "grpo",
    "epsilon": 0.2,
    "epsilon_high": 0.3,
    "delta": None,
    "sapo_temperature_pos": 1.0,
    "sapo_temperature_neg": 1.05,
    "beta": 0.04,
    "kl_estimator": "k3",
    "entropy_coef": 0.0,
    "contrast_coef": 0.0,
}


def random_tokens(seed: int = 0, *, first_update: bool = False) -> Tokens:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    logps, sizes = -4 * draw(8, 6), torch.randint(1, 7, (8, 1), generator=generator)
    return Tokens(
        logps=logps.requires_grad_(),
        mask=(torch.arange(6) < sizes).long(),
        advantages=2 * draw(8) - 1,
        old_logps=None if first_update else logps.detach() + draw(8, 6) - 0.5,
        ref_logps=logps.detach() + draw(8, 6) - 0.5,
        policy_mask=(draw(8, 6) > 0.5).long(),
        entropy=(3 * draw(8, 6)).requires_grad_(),
    )


def counts_of(tokens: Tokens, num_minibatches: int = 1, extra: int = 0) -> MinibatchCounts:
    num = tokens.mask.sum()
    policy = num if tokens.policy_mask is None else (tokens.mask * tokens.policy_mask).sum()
    return MinibatchCounts(len(tokens.mask), num, policy, num, (num + extra) / num_minibatches, 10)


def rows_of(tokens: Tokens, rows: Tensor) -> Tokens:
    return replace(tokens, **{k: None if v is None else v[rows] for k, v in vars(tokens).items()})


def run(tokens: Tokens, counts: MinibatchCounts, parts: list[Tensor], **changes):
    """Loss, gradients and metrics of a minibatch, micro-batch by micro-batch."""
    loss, metrics = torch.zeros((), dtype=torch.float64), {}
    for rows in parts:
        share, shares = policy_objective(rows_of(tokens, rows), counts, **SETTINGS | changes)
        loss = loss + share
        add_up(metrics, shares)
    grads = torch.autograd.grad(loss, [tokens.logps, tokens.entropy], allow_unused=True)
    return loss.item(), grads, metrics


ALL = [torch.arange(8)]


@every_case("loss_type", LOSS_TYPES)
@every_case("first_update", [True, False])
def test_one_times_eight_is_eight_times_one(loss_type, first_update):
    tokens = random_tokens(first_update=first_update)
    counts = counts_of(tokens, num_minibatches=2, extra=9)
    changes = {"loss_type": loss_type, "entropy_coef": 0.1, "delta": 1.4}
    at_once = run(tokens, counts, ALL, **changes)
    for size in (1, 3):
        loss, grads, metrics = run(tokens, counts, list(torch.arange(8).split(size)), **changes)
        assert loss == pytest.approx(at_once[0], abs=1e-12)
        assert metrics == pytest.approx(at_once[2], abs=1e-12)
        for part, full in zip(grads, at_once[1], strict=True):
            torch.testing.assert_close(part, full, atol=1e-12, rtol=0)
            assert full.abs().sum() > 0.01


@every_case("loss_type", LOSS_TYPES)
def test_a_first_update_is_the_plain_policy_gradient(loss_type):
    # d L / d log pi_it = - w_i A_i: the ratio is 1 and nothing is clipped. GSPO spreads the same.
    tokens = replace(random_tokens(first_update=True), policy_mask=None, ref_logps=None)
    counts = counts_of(tokens, num_minibatches=2, extra=9)
    changes = {"loss_type": loss_type, "epsilon_high": 5.0 if loss_type == "cispo" else 0.3}
    if loss_type == "sapo":
        changes |= {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.0}
    _, (gradient, _), metrics = run(tokens, counts, ALL, **changes)
    size, num = tokens.mask.sum(dim=1, keepdim=True), int(tokens.mask.sum())
    weight = {"bnpo": 1 / num, "dr_grpo": 1 / 80, "dapo": 2 / (num + 9), "cispo": 2 / (num + 9)}
    w = weight.get(loss_type, 1 / (8 * size))
    torch.testing.assert_close(gradient, -w * tokens.advantages.unsqueeze(1) * tokens.mask)
    assert all(v == 0 for k, v in metrics.items() if "clip" in k)


def test_normalisers_by_hand():
    # Rows of 2 and 1 tokens: sums 4 and 5; the minibatch has 2 rows, 3 tokens; 12 tokens were
    # rolled out for 2 minibatches; at most 10 tokens a completion.
    values, mask = torch.tensor([[1.0, 3.0], [5.0, 100.0]]), torch.tensor([[1, 1], [1, 0]])
    counts = MinibatchCounts(2, 3, 3, 3, 12 / 2, 10)
    got = {name: aggregate(values, mask, counts, loss_type=name).item() for name in LOSS_TYPES}
    row_mean = (4 / 2 + 5 / 1) / 2
    assert got == pytest.approx(
        {"grpo": row_mean, "gspo": row_mean, "sapo": row_mean, "bnpo": 9 / 3,
         "dr_grpo": 9 / (2 * 10), "dapo": 9 / 6, "cispo": 9 / 6}
    )  # fmt: skip


@pytest.mark.parametrize("parts", [[[0, 1, 2, 3]], [[0], [1], [2], [3]], [[3, 0], [2, 1]]])
def test_the_ends_of_rows_by_hand(parts):
    # Ratios 2 and 1/2 (clipped, by the sign of A) or 1. Shares clipped from below, A < 0: row 0
    # 1 of 2 tokens, row 1 1 of 1; from above, A > 0: row 2 1 of 2. Row 3 has no token.
    log2 = math.log(2)
    ratios = torch.tensor([[-log2, 0.0], [-log2, log2], [log2, 0.0], [log2, log2]]).double()
    old = torch.full((4, 2), -1.0).double()
    tokens = Tokens(
        logps=(old + ratios).requires_grad_(),
        mask=torch.tensor([[1, 1], [1, 0], [1, 1], [0, 0]]),
        advantages=torch.tensor([-1.0, -1.0, 1.0, 1.0]).double(),
        old_logps=old,
        entropy=torch.zeros(4, 2, dtype=torch.float64, requires_grad=True),
    )
    rows = [torch.tensor(part) for part in parts if part != [3]]  # no token: in no micro-batch
    _, _, metrics = run(tokens, MinibatchCounts(4, 5, 5, 5, 5, 10), rows)
    assert metrics["clip_ratio/low_mean"] == pytest.approx(2 / 5)
    assert metrics["clip_ratio/low_min"] == 0  # row 2
    assert metrics["clip_ratio/high_max"] == 0.5
    only = [torch.tensor([0, 1])]
    assert run(tokens, MinibatchCounts(2, 3, 3, 3, 3, 10), only)[2]["clip_ratio/low_min"] == 0.5
    left_out = MinibatchCounts(4, 5, 5, 3, 5, 10, leaves_rows_out=True)
    assert run(tokens, left_out, only)[2]["clip_ratio/low_min"] == 0


@every_case("loss_type", LOSS_TYPES)
def test_what_lies_beyond_the_mask_changes_nothing(loss_type):
    tokens = random_tokens()
    outside = tokens.mask == 0
    junk = {
        name: torch.where(outside, value.detach() - 1000, value.detach())
        for name in ("logps", "entropy")
        if (value := getattr(tokens, name)) is not None
    }
    other = replace(tokens, **{name: value.requires_grad_() for name, value in junk.items()})
    got, wanted = (
        run(t, counts_of(tokens), ALL, loss_type=loss_type, entropy_coef=0.1)
        for t in (other, tokens)
    )
    assert got[0] == wanted[0]
    assert got[2] == wanted[2]
    assert all(torch.equal(a, b) for a, b in zip(got[1], wanted[1], strict=True))


@every_case("loss_type", LOSS_TYPES)
def test_a_masked_row_teaches_nothing_and_no_tokens_at_all_are_no_nan(loss_type):
    tokens = random_tokens()
    mask = tokens.mask.clone()
    mask[2] = 0
    _, (gradient, _), _ = run(
        replace(tokens, mask=mask), counts_of(tokens), ALL, loss_type=loss_type
    )
    assert torch.equal(gradient[2], torch.zeros(6, dtype=torch.float64))
    empty = replace(tokens, mask=torch.zeros_like(mask))
    loss, (gradient, _), metrics = run(empty, counts_of(empty), ALL, loss_type=loss_type)
    assert loss == 0
    assert not gradient.any()
    assert all(math.isfinite(value) for value in metrics.values())


def test_the_policy_mask_stops_the_surrogate_and_not_the_kl():
    tokens = replace(random_tokens(), policy_mask=torch.zeros(8, 6, dtype=torch.long))
    _, (gradient, _), metrics = run(tokens, counts_of(tokens), ALL)
    assert metrics["policy_loss"] == 0
    silent = replace(tokens, policy_mask=None, advantages=torch.zeros(8, dtype=torch.float64))
    torch.testing.assert_close(gradient, run(silent, counts_of(silent), ALL)[1][0])
    assert gradient.abs().sum() > 1e-3


def test_the_entropy_bonus_by_hand():
    # - c H over the tokens that act, whatever the loss type.
    tokens = random_tokens()
    acting = tokens.mask * tokens.policy_mask
    for loss_type in LOSS_TYPES:
        plain, bonus = (
            run(tokens, counts_of(tokens), ALL, loss_type=loss_type, entropy_coef=c)
            for c in (0, 0.5)
        )
        mean = ((tokens.entropy * acting).sum() / acting.sum()).item()
        assert bonus[0] == pytest.approx(plain[0] - 0.5 * mean)
        torch.testing.assert_close(bonus[1][1], -0.5 * acting.double() / acting.sum())


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_kl_is_weighted_and_logged_as_a_token_mean(estimator):
    tokens = random_tokens()
    d = (tokens.logps - tokens.ref_logps).detach()
    value = {"k1": d, "k2": d**2 / 2, "k3": (-d).exp() + d - 1}[estimator]
    without, got = (
        run(tokens, counts_of(tokens), ALL, loss_type="bnpo", beta=b, kl_estimator=estimator)
        for b in (0.0, 2.0)
    )
    mean = ((value * tokens.mask).sum() / tokens.mask.sum()).item()
    assert got[2]["kl"] == pytest.approx(mean)
    assert got[0] == pytest.approx(without[0] + 2 * mean)


def test_the_contrast_by_hand():
    # d = without - with = log 2: k3 = 2 - log 2 - 1; beyond 10 it is held, and has no gradient.
    logps = torch.tensor([[-1.0, -9.0, -1.0]], requires_grad=True)
    without = torch.tensor([[math.log(2) - 1, -1.0, 50.0]])
    mask = torch.tensor([[1, 1, 0]])
    got = modality_contrast(logps, without, mask)
    assert got[0].tolist() == pytest.approx([1 - math.log(2), 10, 0], abs=1e-6)
    got.sum().backward()
    assert logps.grad[0].tolist() == pytest.approx([1 - 2, 0, 0], abs=1e-6)


def test_the_contrast_is_made_larger_and_logged():
    tokens = random_tokens()
    contrast = replace(tokens, contrast_logps=tokens.logps.detach() - 0.5)
    without, got = (
        run(contrast, counts_of(tokens), ALL, loss_type="bnpo", contrast_coef=c) for c in (0.0, 2.0)
    )
    value = math.exp(-0.5) + 0.5 - 1
    assert got[2]["modality/contrast_kl"] == pytest.approx(value)
    assert got[0] == pytest.approx(without[0] - 2 * value)


def test_the_top_entropy_mask_by_hand():
    # Values 1..5 are counted; the 0.6-quantile lies 0.4 of the way from 3 to 4.
    entropy = torch.tensor([[1.0, 5.0, 9.0], [3.0, 4.0, 2.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert top_entropy_mask(entropy, mask, quantile=0.4, counted=None).tolist() == [
        [0, 1, 0],
        [0, 1, 0],
    ]
    assert torch.equal(top_entropy_mask(entropy, mask, quantile=1.0, counted=None), mask)
    assert top_entropy_mask(entropy, 0 * mask, quantile=0.4, counted=None).sum() == 0


def test_an_unknown_loss_type_is_named():
    with pytest.raises(ValueError, match="loss_type='ppo' is none of grpo, bnpo"):
        run(random_tokens(), counts_of(random_tokens()), ALL, loss_type="ppo")
