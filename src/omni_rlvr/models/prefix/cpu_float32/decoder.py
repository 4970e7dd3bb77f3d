"""Decode with the weights of Qwen2, Qwen3 and Llama layers, in as few operations as possible.

A decoding step computes so little that launching an operation takes longer than most operations. So
weights are prepared once a rollout: layers with the same input are joined and stored in the order
that oneDNN reads fastest, and a norm's weight is multiplied into the weight after it. Each step has
one table that scales and rotates queries, rotates keys and leaves values unchanged.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from omni_rlvr.models.prefix.cpu_float32.activation_reuse import (
    ActivationReuse,
    RolloutActivations,
)
from omni_rlvr.models.prefix.cpu_float32.gemm import linear, pack
from omni_rlvr.models.prefix.cpu_float32.layers import (
    Activations,
    FastLayers,
    Layer,
    rotary_cos_sin,
)
from omni_rlvr.models.prefix.cpu_float32.ops import (
    JoinedLinear,
    inverse_rms,
    rms_norm,
    rotate,
    swiglu,
)
from omni_rlvr.models.prefix.decoding import SharedDecoder
from omni_rlvr.models.prefix.packing import Order
from omni_rlvr.types import Prompts

Affine = tuple[Tensor, Tensor | None]
"""A weight as returned by ``pack``, and a bias."""


class StepLayer(NamedTuple):
    """A layer's weights, prepared for decoding steps."""

    qkv: Affine
    head_norms: Tensor | None
    """[H + 2 kvH, D]: the weights of the norms of queries and keys, and 1 for values."""
    o_proj: Affine
    gate_up: Affine
    down: Affine


class FastDecoder(SharedDecoder):
    """A ``SharedDecoder`` that uses a model's weights directly; they must not change meanwhile."""

    def __init__(
        self,
        language_model: PreTrainedModel,
        prompts: Prompts,
        num_generations: int,
        size: int,
        *,
        keep_activations: bool = False,
    ):
        """Plan for N = B*G rows of at most ``size`` tokens."""
        super().__init__(language_model, prompts, num_generations, size)
        self.fast, self.keep_activations = FastLayers(language_model), keep_activations
        self.recorded: RolloutActivations | None = None
        self.num_rows = len(prompts.mask) * num_generations
        self.layers = [_step_layer(layer, self.num_rows) for layer in self.fast.layers]
        q, k, v = self.fast.layers[0].heads
        scales = [self.fast.layers[0].scale] * q + [1.0] * k + [0.0] * v
        self.scale = prompts.embeds.new_tensor(scales).unsqueeze(1)
        """[H + 2 kvH, 1]: scale of queries, 1 for keys, 0 for values, which are not rotated."""

    def activations(self) -> ActivationReuse | None:
        """Return the layers' activations of all N rows; None unless ``keep_activations``."""
        if self.recorded is None:
            return None
        rows = torch.arange(self.num_rows, device=self.prompts.mask.device)
        return ActivationReuse(self.recorded, rows)

    def _prefill(self, embeds: Tensor, places: Tensor, order: Order) -> Tensor:
        row = embeds[order.source.to(embeds.device)].unsqueeze(0)
        if not self.keep_activations:
            return self.fast(row, places, order.packed)
        record: list[Activations] = []
        positions = self.prompts.positions[self.prompts.mask.bool()]
        self.recorded = RolloutActivations(
            self.language_model, embeds, positions, order, self.cache.owners
        )
        hidden = self.fast(row, places, order.packed, record=record)
        self.recorded.add(record)
        return hidden

    def _step(self, hidden: Tensor, places: Tensor, tokens: Tensor) -> Tensor:
        cos, sin = self._tables(hidden, places)
        (num, _, width), heads = cos.shape, self.fast.layers[0].heads
        made, attentions = [], []
        for i, (layer, weights) in enumerate(zip(self.fast.layers, self.layers, strict=True)):
            x = hidden * inverse_rms(hidden, layer.norm.variance_epsilon)
            qkv = linear(x, *weights.qkv)
            each = qkv.view(cos.shape)
            if weights.head_norms is not None:
                each = _normed_heads(each, weights.head_norms, layer)
            rotated = rotate(each, cos, sin)
            query, keys_values = rotated.split([heads[0], heads[1] + heads[2]], dim=1)
            context, attention = self.cache.attend(
                i,
                query.view(num, heads[1], -1, width),
                keys_values.view(num, 2, heads[1], width),
            )
            attended = linear(context, *weights.o_proj, hidden)
            x = attended * inverse_rms(attended, layer.mlp_norm.variance_epsilon)
            gate_up = linear(x, *weights.gate_up)
            hidden = linear(swiglu(gate_up), *weights.down, attended)
            if self.recorded is not None:
                query, keys_values = qkv.split([heads[0] * width, 2 * heads[1] * width], dim=1)
                made.append(
                    Activations(query, keys_values, context, None, attended, gate_up, hidden)
                )
                attentions.append(attention)
        if self.recorded is not None:
            # for all layers at once, to save small operations
            lse = self.cache.log_sum_exp(*zip(*attentions, strict=True))
            made = [layer._replace(lse=one) for layer, one in zip(made, lse, strict=True)]
            self.recorded.add_step(self.cache.rows, tokens, made)
        norm = self.fast.model.norm
        return rms_norm(hidden, norm.weight, norm.variance_epsilon)

    def _tables(self, hidden: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Compute ``cos`` and ``sin`` of ``ops.rotate`` for all heads: [n, H + 2 kvH, D] each."""
        cos, sin = rotary_cos_sin(self.fast.model, hidden, places)
        # values (scale 0) get cos = 1 and sin = 0, which leaves them unchanged
        return cos * self.scale + (self.scale == 0), sin * self.scale


def _step_layer(layer: Layer, num_rows: int) -> StepLayer:
    head_norms = None
    if layer.head_norms:
        q, k, v = layer.heads
        query, key = (norm.weight for norm in layer.head_norms)
        each = [query.expand(q, -1), key.expand(k, -1), torch.ones_like(key).expand(v, -1)]
        head_norms = torch.cat(each)
    return StepLayer(
        qkv=_affine(
            JoinedLinear(*layer.query.linears, *layer.keys_values.linears),
            num_rows,
            layer.norm.weight,
        ),
        head_norms=head_norms,
        o_proj=_affine(layer.o_proj, num_rows),
        gate_up=_affine(layer.gate_up, num_rows, layer.mlp_norm.weight),
        down=_affine(layer.down, num_rows),
    )


def _affine(layer: JoinedLinear, num_rows: int, norm: Tensor | None = None) -> Affine:
    """Pack a layer; ``norm`` [K] is the weight of a norm to apply to its input."""
    weight, bias = layer.joined()
    # W (w * x) = (W * w) x: multiplying the norm's weight into W saves an operation a step
    return pack(weight if norm is None else weight * norm, num_rows), bias


def _normed_heads(each: Tensor, weight: Tensor, layer: Layer) -> Tensor:
    """Normalise the heads of queries and keys, not those of values: [n, H + 2 kvH, D]."""
    scale = inverse_rms(each, layer.head_norms[0].variance_epsilon)
    scale[:, -layer.heads[2] :] = 1
    return each * scale * weight
