"""Losses by hand, autograd against closed forms, shares that add up, the reference's numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from every_case import every_case
from safetensors.torch import load_file
from torch import Tensor

from omni_rlvr.functional.kl import k3
from omni_rlvr.functional.losses import (
    cispo_surrogate,
    clipped_surrogate,
    sequence_log_ratio,
    sequence_mean,
    sft_loss,
    soft_gate,
)

PARITY = Path(__file__).parents[1] / "fixtures" / "parity_A"
LOG = math.log


def grpo(logps: Tensor, mask: Tensor, advantages: Tensor, ref: Tensor, *, beta: float) -> Tensor:
    """The whole GRPO loss of a first update."""
    objective, _, _ = clipped_surrogate(
        logps - logps.detach(), advantages, epsilon=0.2, epsilon_high=0.2, delta=None
    )
    per_token = -objective + beta * k3(logps, ref)
    return sequence_mean(per_token, mask, num_sequences=len(logps))


def random_case(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    sizes = torch.randint(1, 7, (8, 1), generator=generator)
    return {
        "logps": -4 * draw(8, 6),
        "ref": -4 * draw(8, 6),
        "mask": (torch.arange(6) < sizes).long(),
        "advantages": 2 * draw(8) - 1,
    }


def test_sft_by_hand():
    # Targets of 2 and 1 tokens: (1 + 2 + 4) / 3.
    logps = torch.tensor([[-1.0, -2.0], [-4.0, -9.0]])
    mask = torch.tensor([[1, 1], [1, 0]])
    assert sft_loss(logps, mask, num_tokens=3).item() == pytest.approx(7 / 3)


def test_sft_gradient_is_minus_one_over_the_tokens():
    logps = torch.tensor([[-1.0, -2.0], [-4.0, -9.0]], requires_grad=True)
    mask = torch.tensor([[1, 1], [1, 0]])
    sft_loss(logps, mask, num_tokens=mask.sum()).backward()
    torch.testing.assert_close(logps.grad, -mask / 3)


def test_sequence_mean_by_hand():
    # Row means (1 + 3) / 2 = 2 and 5 / 1 = 5; (2 + 5) / 2 = 3.5. The token mean would be 3.
    values = torch.tensor([[1.0, 3.0], [5.0, 100.0]])
    mask = torch.tensor([[1, 1], [1, 0]])
    assert sequence_mean(values, mask, num_sequences=2).item() == 3.5


def test_a_row_without_tokens_adds_nothing():
    values = torch.tensor([[1.0, 3.0], [5.0, 100.0]])
    mask = torch.tensor([[1, 1], [0, 0]])
    assert sequence_mean(values, mask, num_sequences=2).item() == 1.0


@every_case(
    ("ratio", "advantage", "objective", "clipped"),
    [
        (1.0, 1.0, 1.0, None),
        (1.1, 1.0, 1.1, None),
        (1.5, 1.0, 1.3, "high"),  # up already: held at 1 + epsilon_high
        (0.5, 1.0, 0.5, None),  # a good token that became rarer is never clipped
        (0.5, -1.0, -0.8, "low"),  # down already: held at 1 - epsilon
        (1.5, -1.0, -1.5, None),  # a bad token that became likelier, below delta
        (4.0, -1.0, -3.0, "delta"),  # and above it: held at delta
        (4.0, 1.0, 1.3, "high"),
        (0.9, -2.0, -1.8, None),
        (1.5, 0.0, 0.0, None),
    ],
)
def test_clipping_by_hand(ratio, advantage, objective, clipped):
    logps = torch.tensor([[LOG(ratio) - 2]], requires_grad=True)
    got, low, high = clipped_surrogate(
        logps + 2, torch.tensor([advantage]), epsilon=0.2, epsilon_high=0.3, delta=3.0
    )
    assert got.item() == pytest.approx(objective, abs=1e-6)
    assert (low.item(), high.item()) == (clipped == "low", clipped == "high")
    got.sum().backward()
    # d (rho A) / d log pi = rho A; a clipped token has no gradient.
    expected = 0.0 if clipped else ratio * advantage
    assert logps.grad.item() == pytest.approx(expected, abs=1e-6)


def test_first_update_has_the_value_of_the_advantage_and_its_gradient():
    case = random_case()
    logps = case["logps"].requires_grad_()
    objective, low, high = clipped_surrogate(
        logps - logps.detach(), case["advantages"], epsilon=0.2, epsilon_high=0.2, delta=None
    )
    expected = case["advantages"].unsqueeze(1).expand(8, 6)
    assert torch.equal(objective, expected)
    assert not (low | high).any()
    objective.sum().backward()
    torch.testing.assert_close(logps.grad, expected)


def test_a_sequences_ratio_by_hand():
    # Means (0.2 + 0.4) / 2 and 0.6 / 1; a row without tokens has ratio 1.
    got = sequence_log_ratio(
        torch.tensor([[0.2, 0.4], [0.6, 9.0], [9.0, 9.0]]), torch.tensor([[1, 1], [1, 0], [0, 0]])
    )
    assert got.squeeze(1).tolist() == pytest.approx([0.3, 0.6, 0.0])


@every_case(
    ("ratio", "advantage", "weight", "clipped"),
    [(1.0, 2.0, 1.0, False), (0.1, 2.0, 0.1, False), (8.0, 2.0, 5.0, True), (8.0, -1, 5.0, False)],
)
def test_cispo_by_hand(ratio, advantage, weight, clipped):
    logps = torch.tensor([[-2.0]], requires_grad=True)
    got, where = cispo_surrogate(
        logps, logps + 2 + LOG(ratio), torch.tensor([advantage]), epsilon_high=5.0
    )
    assert got.item() == pytest.approx(weight * advantage * -2.0, rel=1e-6)
    assert where.item() is clipped
    got.sum().backward()
    assert logps.grad.item() == pytest.approx(weight * advantage, rel=1e-6)  # never without one


@pytest.mark.parametrize(("advantage", "tau"), [(2.0, 1.0), (-2.0, 1.5)])
def test_the_soft_gate_by_hand(advantage, tau):
    # At rho = 1 the sigmoid is 1/2 and its slope tau/4: J = 2 A / tau, dJ = A. At rho = 2 the slope
    # of 4/tau sigmoid(tau (rho - 1)) by log pi is 4 s (1 - s) rho, s = sigmoid(tau).
    for ratio in (1.0, 2.0):
        logps = torch.tensor([[LOG(ratio)]], requires_grad=True)
        got = soft_gate(logps, torch.tensor([advantage]), temperature_pos=1.0, temperature_neg=1.5)
        s = 1 / (1 + math.exp(-tau * (ratio - 1)))
        assert got.item() == pytest.approx(4 * s / tau * advantage, rel=1e-6)
        got.sum().backward()
        assert logps.grad.item() == pytest.approx(4 * s * (1 - s) * ratio * advantage, rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.04, 1.0])
def test_gradient_equals_the_closed_form(beta):
    # d L / d log pi_it = [-A_i + beta (1 - exp(ref - pi))] / (|o_i| N) on the completion, else 0.
    case = random_case()
    logps = case["logps"].requires_grad_()
    grpo(logps, case["mask"], case["advantages"], case["ref"], beta=beta).backward()
    size = case["mask"].sum(dim=1, keepdim=True)
    push = -case["advantages"].unsqueeze(1) + beta * (1 - (case["ref"] - logps.detach()).exp())
    torch.testing.assert_close(logps.grad, push * case["mask"] / (size * 8))


def test_what_lies_beyond_the_mask_changes_nothing():
    case = random_case()
    junk = {
        key: torch.where(case["mask"].bool(), case[key], -7 - case[key]) for key in ("logps", "ref")
    }
    results = []
    for values in (case, {**case, **junk}):
        logps = values["logps"].clone().requires_grad_()
        loss = grpo(logps, case["mask"], case["advantages"], values["ref"], beta=0.04)
        loss.backward()
        sft = sft_loss(values["logps"], case["mask"], num_tokens=case["mask"].sum())
        results.append((loss.item(), sft.item(), logps.grad.tolist()))
    assert results[0] == results[1]


@every_case("size", [1, 2, 3, 5, 8])
def test_shares_of_micro_batches_add_up_to_the_whole(size):
    case = {key: value.double() for key, value in random_case().items()}
    logps, mask = case["logps"].requires_grad_(), case["mask"]
    sums = {"grpo": 0.0, "sft": 0.0}
    for rows in torch.arange(8).split(size):
        objective, _, _ = clipped_surrogate(
            logps[rows] - logps[rows].detach(),
            case["advantages"][rows],
            epsilon=0.2,
            epsilon_high=0.2,
            delta=None,
        )
        per_token = -objective + 0.04 * k3(logps[rows], case["ref"][rows])
        sums["grpo"] += sequence_mean(per_token, mask[rows], num_sequences=8)
        sums["sft"] += sft_loss(logps[rows], mask[rows], num_tokens=mask.sum())
    whole = {
        "grpo": grpo(logps, mask, case["advantages"], case["ref"], beta=0.04),
        "sft": sft_loss(logps, mask, num_tokens=mask.sum()),
    }
    for name in sums:
        torch.testing.assert_close(sums[name], whole[name], atol=1e-14, rtol=1e-12)
        parts, at_once = (
            torch.autograd.grad(x[name], logps, retain_graph=True)[0] for x in (sums, whole)
        )
        assert torch.equal(parts, at_once)  # a token's share does not know how the rows were split


@every_case("beta", [0.04, 0.0])
@every_case("case", ["s0", "s1"])
def test_loss_and_gradient_of_the_reference(case, beta):
    data = load_file(PARITY / "grpo.safetensors")
    recorded = json.loads((PARITY / "grpo.json").read_text())["scenarios"][case]
    logps = data[f"{case}.policy_logps"].requires_grad_()
    args = (logps, data[f"{case}.completion_mask"], data[f"{case}.advantages"])
    loss = grpo(*args, data[f"{case}.ref_logps"], beta=beta)
    loss.backward()
    name = f"beta{beta:g}"
    assert loss.item() == pytest.approx(recorded["results"][name]["loss"], abs=1e-6)
    torch.testing.assert_close(loss.detach(), data[f"{case}.{name}.loss"], atol=1e-6, rtol=0)
    expected = data[f"{case}.{name}.grad_policy_logps"]
    torch.testing.assert_close(logps.grad, expected, atol=1e-6, rtol=0)


def test_loss_of_the_reference_end_to_end():
    data = load_file(PARITY / "grpo.safetensors")
    loss = grpo(
        data["e2e.per_token_logps"],
        data["e2e.completion_mask"],
        data["e2e.advantages"],
        data["e2e.ref_per_token_logps"],
        beta=0.04,
    )
    torch.testing.assert_close(loss, data["e2e.loss"], atol=1e-6, rtol=0)
