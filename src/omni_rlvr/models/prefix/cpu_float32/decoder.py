"""Decoding steps of Qwen2, Qwen3 and Llama on their weights, with as few operations as can be.

A step has so little to compute that starting an operation costs more than most of them take. What
weights allow is done once a rollout: products that share an input lie side by side, in the order
that oneDNN reads fastest, and a norm's weight is part of the product behind it. Scale and rotation
of queries, the rotation of keys and the identity for values are one table a step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from omni_rlvr.models.prefix.attention_hook import can_share
from omni_rlvr.models.prefix.cpu_float32.activation_reuse import Tape
from omni_rlvr.models.prefix.cpu_float32.gemm import linear, pack
from omni_rlvr.models.prefix.cpu_float32.layers import Layer, LeanPass, Notes, is_lean, turns
from omni_rlvr.models.prefix.cpu_float32.ops import Product, inverse_rms, rms_norm, rotate, swiglu
from omni_rlvr.models.prefix.decoding import Decoder, RepeatedDecoder, SharedDecoder
from omni_rlvr.models.prefix.packing import Order
from omni_rlvr.types import Prompts

Affine = tuple[Tensor, Tensor | None]
"""Weight, as ``pack`` returned it, and bias."""


class StepLayer(NamedTuple):
    """A layer's weights as a step reads them."""

    qkv: Affine
    head_norms: Tensor | None
    """[H + 2 kvH, D], weights of the norms of queries and keys, and one for values."""
    mix: Affine
    gate_up: Affine
    down: Affine


def make_decoder(
    language_model: PreTrainedModel,
    prompts: Prompts,
    *,
    num_generations: int,
    max_completion_length: int,
    keep_tape: bool = False,
) -> Decoder:
    """Makes the fastest decoder that a model allows; use under ``no_grad``.

    Only a model whose layers run on their weights (``lean``) can keep a tape.
    """
    if not can_share(language_model):
        return RepeatedDecoder(language_model, prompts, num_generations)
    plan = (language_model, prompts, num_generations, max_completion_length)
    if is_lean(language_model):
        return LeanDecoder(*plan, keep_tape=keep_tape)
    return SharedDecoder(*plan)


class LeanDecoder(SharedDecoder):
    """``SharedDecoder`` for models that are lean; weights must not change while it is used."""

    def __init__(
        self,
        language_model: PreTrainedModel,
        prompts: Prompts,
        num_generations: int,
        size: int,
        *,
        keep_tape: bool = False,
    ):
        """Plans for N = B*G rows of at most ``size`` tokens."""
        super().__init__(language_model, prompts, num_generations, size)
        self.lean, self.keep_tape = LeanPass(language_model), keep_tape
        num_rows = len(prompts.mask) * num_generations
        self.layers = [_step_layer(layer, num_rows) for layer in self.lean.layers]
        q, k, v = self.lean.layers[0].heads
        scales = [self.lean.layers[0].scale] * q + [1.0] * k + [0.0] * v
        self.scale = prompts.embeds.new_tensor(scales).unsqueeze(1)
        """[H + 2 kvH, 1], of the turned heads; 0 for values, which are not turned."""

    def _prefill(self, embeds: Tensor, places: Tensor, order: Order) -> Tensor:
        row = embeds[order.source.to(embeds.device)].unsqueeze(0)
        if not self.keep_tape:
            return self.lean(row, places, order.packed)
        notes: list[Notes] = []
        positions = self.prompts.positions[self.prompts.mask.bool()]
        self.tape = Tape(self.language_model, embeds, positions, order, self.slots.owners)
        hidden = self.lean(row, places, order.packed, keep=notes)
        self.tape.add(notes)
        return hidden

    def _step(self, hidden: Tensor, places: Tensor, tokens: Tensor) -> Tensor:
        cos, sin = self._tables(hidden, places)
        (num, _, width), heads = cos.shape, self.lean.layers[0].heads
        notes, attentions = [], []
        for i, (layer, weights) in enumerate(zip(self.lean.layers, self.layers, strict=True)):
            x = hidden * inverse_rms(hidden, layer.norm.variance_epsilon)
            qkv = linear(x, *weights.qkv)
            each = qkv.view(cos.shape)
            if weights.head_norms is not None:
                each = _normed_heads(each, weights.head_norms, layer)
            turned = rotate(each, cos, sin)
            query, keys_values = turned.split([heads[0], heads[1] + heads[2]], dim=1)
            context, attention = self.slots.attend(
                i,
                query.view(num, heads[1], -1, width),
                keys_values.view(num, 2, heads[1], width),
            )
            attended = linear(context, *weights.mix, hidden)
            x = attended * inverse_rms(attended, layer.mlp_norm.variance_epsilon)
            gate_up = linear(x, *weights.gate_up)
            hidden = linear(swiglu(gate_up), *weights.down, attended)
            if self.tape is not None:
                query, keys_values = qkv.split([heads[0] * width, 2 * heads[1] * width], dim=1)
                notes.append(Notes(query, keys_values, context, None, attended, gate_up, hidden))
                attentions.append(attention)
        if self.tape is not None:
            lse = self.slots.log_sum_exp(*zip(*attentions, strict=True))
            notes = [note._replace(lse=one) for note, one in zip(notes, lse, strict=True)]
            self.tape.add_step(self.slots.rows, tokens, notes)
        norm = self.lean.model.norm
        return rms_norm(hidden, norm.weight, norm.variance_epsilon)

    def _tables(self, hidden: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """What all heads are multiplied by, and their swapped halves: [n, H + 2 kvH, D] each."""
        cos, sin = turns(self.lean.model, hidden, places)
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
            Product(*layer.query.linears, *layer.keys_values.linears), num_rows, layer.norm.weight
        ),
        head_norms=head_norms,
        mix=_affine(layer.mix, num_rows),
        gate_up=_affine(layer.gate_up, num_rows, layer.mlp_norm.weight),
        down=_affine(layer.down, num_rows),
    )


def _affine(product: Product, num_rows: int, norm: Tensor | None = None) -> Affine:
    """Packs a product; ``norm`` [K] are weights that its input has yet to be multiplied by."""
    weight, bias = product.joined()
    return pack(weight if norm is None else weight * norm, num_rows), bias


def _normed_heads(each: Tensor, weight: Tensor, layer: Layer) -> Tensor:
    """Normalises the heads of queries and keys, not those of values: [n, H + 2 kvH, D]."""
    scale = inverse_rms(each, layer.head_norms[0].variance_epsilon)
    scale[:, -layer.heads[2] :] = 1
    return each * scale * weight
