"""Operators of torch that are not part of its public interface, found and tried once.

torch's own compiler and attention call them, so they exist in every version that this package has
been run with; but their names and arguments may change without notice. So each is run once on a few
numbers and compared with the public operation. One that is missing, takes other arguments or gives
other numbers is None, and its caller uses the public operations, which are slower.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

log = logging.getLogger(__name__)

FAILURES = (AttributeError, RuntimeError, TypeError, ValueError)
"""Errors of an operator that is missing, takes other arguments, or gives other numbers."""


class Operators(NamedTuple):
    """Private operators of this torch; None for one that cannot be used."""

    onednn_linear: Callable[..., Any] | None = None
    """x W^T + b by oneDNN: (x, weight, bias, "none", [], "")."""
    onednn_reorder: Callable[..., Any] | None = None
    """Copies a weight into the order that ``onednn_linear`` reads fastest: (weight, num_rows)."""
    flash: Callable[..., Any] | None = None
    """Attention on a CPU that keeps no score matrix and returns the log-sum-exp as well."""
    flash_backward: Callable[..., Any] | None = None
    """Its gradients; available whenever ``flash`` is."""
    silu_backward: Callable[..., Any] | None = None
    """The gradient of silu, written to a given tensor: (grad, x, grad_input=out)."""


@cache  # on first use, so that commands that compute nothing do not wait for it
def operators() -> Operators:
    """Find this torch's private operators, each only if it computes what is expected."""
    # the first use may be under no_grad or autocast, which would change the results
    with torch.inference_mode(mode=False), torch.autocast("cpu", enabled=False):
        found: dict[str, Callable[..., Any]] = {}
        for what, find in (
            ("oneDNN's linear layer", _onednn),
            ("the CPU's flash attention", _flash),
            ("the gradient of silu", _silu_backward),
        ):
            try:
                found |= find()
            except FAILURES as error:
                log.info("torch %s: %s is not used (%s)", torch.__version__, what, error)
        return Operators(**found)


def _onednn() -> dict[str, Callable[..., Any]]:
    if not torch.backends.mkldnn.is_available():
        return {}
    x, weight = _numbers(3, 4), _numbers(5, 4)
    bias = weight[:, 0].contiguous()
    expected = F.linear(x, weight, bias)
    linear = torch.ops.mkldnn._linear_pointwise.default
    reorder = torch.ops.mkldnn._reorder_linear_weight.default
    _check(linear(x, weight, bias, "none", [], ""), expected)
    _check(linear(x, reorder(weight, 3), bias, "none", [], ""), expected)
    return {"onednn_linear": linear, "onednn_reorder": reorder}


def _flash() -> dict[str, Callable[..., Any]]:
    query, keys, values, grad = (_numbers(1, 2, 3, 8) + i / 10 for i in range(4))
    inputs = [x.clone().requires_grad_() for x in (query, keys, values)]
    with torch.enable_grad():
        scores = inputs[0] @ inputs[1].transpose(-1, -2) * 0.5
        later = torch.ones(3, 3, dtype=torch.bool, device="cpu").triu(1)
        expected = scores.masked_fill(later, float("-inf")).softmax(dim=-1) @ inputs[2]
        expected_grads = torch.autograd.grad(expected, inputs, grad)
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    out, lse = forward(query, keys, values, 0.0, True, scale=0.5)
    _check(out, expected.detach())
    grads = backward(grad, query, keys, values, out, lse, 0.0, True, scale=0.5)
    for got, wanted in zip(grads, expected_grads, strict=True):
        _check(got, wanted)
    return {"flash": forward, "flash_backward": backward}


def _silu_backward() -> dict[str, Callable[..., Any]]:
    x, grad = _numbers(2, 4), _numbers(2, 4) + 1
    out, gate = torch.empty_like(x), x.sigmoid()
    operator = torch.ops.aten.silu_backward.grad_input
    operator(grad, x, grad_input=out)
    _check(out, grad * gate * (1 + x * (1 - gate)))
    return {"silu_backward": operator}


def _numbers(*shape: int) -> torch.Tensor:
    """Make numbers in [-1, 1] without the random generator, whose state must not change."""
    size = torch.Size(shape).numel()
    return (torch.arange(size, dtype=torch.float32, device="cpu") * 0.7).sin().view(shape)


def _check(got: torch.Tensor, expected: torch.Tensor) -> None:
    if not torch.allclose(got, expected, atol=1e-5, rtol=1e-4):
        raise ValueError("it gives other numbers than the public operation")
