"""The operations of a decoder layer, each with its own backward: fewer passes over memory than what
autograd derives, and a product whose result is already known is not computed again. Forward they
give what transformers' modules give, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalises the last axis: x / sqrt(mean(x^2) + eps) * weight."""
    return _RmsNorm.apply(x, weight, eps)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns pairs (i, i + D/2) of [.., D]; the halves of ``cos`` and ``sin`` are equal."""
    return _Rotation.apply(x, cos, sin)


def product(x: Tensor, linears: Sequence[nn.Linear], known: Tensor | None) -> Tensor:
    """Applies linear layers to one input, side by side.

    Args:
        x: [S, K].
        linears: K -> N_i each.
        known: the result, if an earlier pass has computed it; it then only gets its gradient.

    Returns:
        [S, sum N_i].
    """
    if torch.is_grad_enabled():
        weights = [weight for linear in linears for weight in (linear.weight, linear.bias)]
        return _Product.apply(x, known, *weights)
    return _products(x, [(linear.weight, linear.bias) for linear in linears])


def _products(x: Tensor, weights: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    if len(weights) == 1:
        return F.linear(x, *weights[0])
    out = x.new_empty(len(x), sum(len(weight) for weight, _ in weights))
    parts = out.split([len(weight) for weight, _ in weights], dim=1)
    for part, (weight, bias) in zip(parts, weights, strict=True):
        if bias is None:
            torch.mm(x, weight.t(), out=part)
        else:
            torch.addmm(bias, x, weight.t(), out=part)
    return out


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, known: Tensor | None, *weights: Tensor | None):
        ctx.save_for_backward(x, *weights[::2])
        pairs: Any = list(zip(weights[::2], weights[1::2], strict=True))
        return _products(x, pairs) if known is None else known

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        x, *weights = ctx.saved_tensors
        parts = grad.split([len(weight) for weight in weights], dim=1)
        wanted = ctx.needs_input_grad
        dx = None
        if wanted[0]:
            dx = parts[0] @ weights[0]
            for part, weight in zip(parts[1:], weights[1:], strict=True):
                dx.addmm_(part, weight)
        grads: list[Tensor | None] = []
        for i, part in enumerate(parts):
            grads.append(part.t() @ x if wanted[2 + 2 * i] else None)
            grads.append(part.sum(dim=0) if wanted[3 + 2 * i] else None)
        return dx, None, *grads


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float):
        scale = x.square().mean(dim=-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        # y = w x s, s = (mean x^2 + eps)^-1/2:  dx = s (g w - x s mean(g w x s))
        x, weight, scale = ctx.saved_tensors
        unit = x * scale
        d_weight = (grad * unit).flatten(0, -2).sum(dim=0) if ctx.needs_input_grad[1] else None
        d_unit = grad * weight
        along = torch.linalg.vecdot(d_unit, unit).unsqueeze(-1).div_(x.shape[-1])
        return d_unit.addcmul_(unit, along, value=-1).mul_(scale), d_weight, None


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor):
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, -sin), None, None  # back by the same angle


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half, out = x.shape[-1] // 2, x * cos
    out[..., :half] -= x[..., half:] * sin[..., :half]
    out[..., half:] += x[..., :half] * sin[..., half:]
    return out
