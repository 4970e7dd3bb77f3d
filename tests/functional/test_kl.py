"""The estimators by hand, their promises, their gradients, and the reference's numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omni_rlvr.functional.kl import ESTIMATORS, k1, k2, k3

PARITY = Path(__file__).parents[1] / "fixtures" / "parity_A"


def test_k3_by_hand():
    # d = ref - pi. log 2: 2 - log 2 - 1 = 0.3069; -log 2: 0.5 + log 2 - 1 = 0.1931; 0: 0.
    pi = torch.tensor([[-1.0, -1.0, -1.0]])
    ref = pi + torch.tensor([[math.log(2), -math.log(2), 0.0]])
    assert k3(pi, ref)[0].tolist() == pytest.approx(
        [1 - math.log(2), math.log(2) - 0.5, 0], abs=1e-6
    )


def test_k1_and_k2_by_hand():
    # pi - ref = -log 2 = -0.6931 and log 2; halves of their squares are 0.2402.
    pi = torch.tensor([[-1.0, -1.0]])
    ref = pi + torch.tensor([[math.log(2), -math.log(2)]])
    assert k1(pi, ref)[0].tolist() == pytest.approx([-math.log(2), math.log(2)], abs=1e-6)
    assert k2(pi, ref)[0].tolist() == pytest.approx([math.log(2) ** 2 / 2] * 2, abs=1e-6)


def test_expected_gradients_of_the_estimators():
    # Under samples of pi: E[d k2] is the gradient of KL(pi || ref), E[d k1] is zero, and E[d k3]
    # is the gradient of KL(ref || pi): a forward KL, close to the other near the reference.
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(9, generator=generator).double().requires_grad_()
    q = torch.randn(9, generator=generator).double().log_softmax(0)

    def gradient(f):
        return torch.autograd.grad(f(z.log_softmax(0)), z)[0]

    got = {
        name: gradient(lambda p, k=k: (p.detach().exp() * k(p, q)).sum())
        for name, k in ESTIMATORS.items()
    }
    torch.testing.assert_close(got["k1"], torch.zeros_like(z))
    torch.testing.assert_close(got["k2"], gradient(lambda p: (p.exp() * (p - q)).sum()))
    torch.testing.assert_close(got["k3"], gradient(lambda p: (q.exp() * (q - p)).sum()))


def test_equal_policies_have_none_and_no_gradient():
    pi = torch.tensor([[-0.3, -5.0]], requires_grad=True)
    divergence = k3(pi, pi.detach())
    assert divergence.tolist() == [[0.0, 0.0]]
    divergence.sum().backward()
    assert pi.grad.tolist() == [[0.0, 0.0]]


def test_never_negative():
    generator = torch.Generator().manual_seed(0)
    pi, ref = (-5 * torch.rand(1000, 1, generator=generator) for _ in range(2))
    assert (k3(pi, ref) >= 0).all()


def test_its_mean_under_the_policy_is_the_divergence():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(9, generator=generator).double().log_softmax(0) for _ in range(2))
    # sum_v p_v (q_v/p_v - log q_v/p_v - 1) = 1 + KL(p || q) - 1, exactly.
    torch.testing.assert_close((p.exp() * k3(p, q)).sum(), (p.exp() * (p - q)).sum())


def test_gradient_is_one_minus_the_ratio():
    # d/d pi [exp(ref - pi) - (ref - pi) - 1] = 1 - exp(ref - pi)
    pi = torch.tensor([[-1.0, -2.0, -0.5]], requires_grad=True)
    ref = torch.tensor([[-2.0, -1.0, -0.5]])
    k3(pi, ref).sum().backward()
    torch.testing.assert_close(pi.grad, 1 - (ref - pi.detach()).exp())


@pytest.mark.parametrize("case", ["s0", "s1"])
def test_divergence_of_the_reference(case):
    data = load_file(PARITY / "grpo.safetensors")
    got = k3(data[f"{case}.policy_logps"], data[f"{case}.ref_logps"])
    torch.testing.assert_close(got, data[f"{case}.per_token_kl"], atol=1e-6, rtol=0)
