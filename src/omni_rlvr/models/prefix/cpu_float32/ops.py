"""The operations of a decoder layer, each with a backward pass of its own.

They pass over memory fewer times than autograd's own backward, and do not compute a product again
whose result is known. Up to rounding, the results are those of transformers' modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni_rlvr.models.prefix.cpu_float32.gemm import linear
from omni_rlvr.models.prefix.private_operators import operators


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last axis: x / sqrt(mean(x^2) + eps) * weight."""
    if torch.is_grad_enabled():
        return _RmsNorm.apply(x, weight, eps)
    return (x * inverse_rms(x, eps)).mul_(weight)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + D/2) of [.., D]; ``sin`` has a minus sign in its first half.

    y_i = cos_i x_i + sin_i x_(i + D/2 mod D)
    """
    return _Rotation.apply(x, cos, sin) if torch.is_grad_enabled() else _rotated(x, cos, sin)


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """Compute 1 / sqrt(mean(x^2) + eps) of the last axis: [.., D] -> [.., 1]."""
    # vector_norm reads x once; x.square().mean() would first write a tensor as large as x
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def swiglu(gate_up: Tensor) -> Tensor:
    """Compute silu(gate) * up: [S, 2 I] with gates first -> [S, I]."""
    return _SwiGlu.apply(gate_up) if torch.is_grad_enabled() else _swiglu(gate_up)


class JoinedLinear:
    """Linear layers with the same input, outputs concatenated: [S, K] -> [S, sum N_i]."""

    def __init__(self, *linears: nn.Linear):
        """Take the layers, K -> N_i."""
        self.linears = linears

    def __call__(
        self, x: Tensor, *, residual: Tensor | None = None, known: Tensor | None = None
    ) -> Tensor:
        """Multiply by the layers' weights.

        Args:
            x: [S, K].
            residual: [S, sum N_i], added to the result.
            known: The result, if an earlier pass has computed it; only the graph is then built.
        """
        if torch.is_grad_enabled():
            weights = [weight for one in self.linears for weight in (one.weight, one.bias)]
            return _JoinedLinear.apply(x, residual, known, *weights)
        return linear(x, *self.joined(), residual)

    def joined(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight [sum N_i, K] and the bias."""
        return _join([one.weight for one in self.linears], [one.bias for one in self.linears])


def _join(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor | None]:
    """Concatenate weights [N_i, K], and biases [N_i] if any layer has one."""
    if len(weights) == 1:
        return weights[0], biases[0]
    if all(bias is None for bias in biases):
        return torch.cat(list(weights)), None
    there = [
        weight.new_zeros(len(weight)) if bias is None else bias
        for weight, bias in zip(weights, biases, strict=True)
    ]
    return torch.cat(list(weights)), torch.cat(there)


class _JoinedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, residual: Tensor | None, known: Tensor | None, *weights):
        ctx.save_for_backward(x, *weights[::2])
        return linear(x, *_join(weights[::2], weights[1::2]), residual) if known is None else known

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        x, *weights = ctx.saved_tensors
        wanted, grad = ctx.needs_input_grad, grad.contiguous()
        # joined again: keeping it from forward would hold a copy of all weights until backward
        dx = linear(grad, _join(weights, [None] * len(weights))[0].t()) if wanted[0] else None
        grads: list[Tensor | None] = []
        for i, part in enumerate(grad.split([len(weight) for weight in weights], dim=1)):
            grads.append(_weight_gradient(part, x) if wanted[3 + 2 * i] else None)
            grads.append(part.sum(dim=0) if wanted[4 + 2 * i] else None)
        return dx, grad if wanted[1] else None, None, *grads


def _weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Compute grad^T x, [N, K], as the faster product, which has more rows than columns."""
    return grad.t() @ x if grad.shape[1] >= x.shape[1] else (x.t() @ grad).t()


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float):
        scale = inverse_rms(x, eps)
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
        return _rotated(grad, cos, -sin), None, None  # rotate back by the same angle


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor):
        ctx.save_for_backward(gate_up)
        return _swiglu(gate_up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)  # both gradients are written into its halves
        d_gate, d_up = out.chunk(2, dim=-1)
        torch.mul(grad, F.silu(gate), out=d_up)
        silu_backward = operators().silu_backward
        if silu_backward is None:
            squashed = gate.sigmoid()  # d silu(z)/dz = s (1 + z (1 - s)), s = sigmoid(z)
            d_gate.copy_(grad * up * squashed * (1 + gate * (1 - squashed)))
        else:
            silu_backward(grad * up, gate, grad_input=d_gate)
        return out


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out, half = x * cos, x.shape[-1] // 2
    out[..., :half].addcmul_(x[..., half:], sin[..., :half])
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


def _swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
