"""Run decoder layers of Qwen2, Qwen3 and Llama on their weights, without calling their modules.

    x += o_proj(attend(rotate(q, k), v)),   q, k, v = qkv(norm(x))
    x += down(silu(gate(y)) up(y)),         y = norm(x)

In the last layer, only keys and values are computed for tokens that predict nothing. A pass can
record its activations, and a later pass over the same tokens can start from them: it then only
builds the graph for backward. A model with anything else (adapters, hooks, autocast, other classes,
checkpointing) is run through its modules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation

# Imported class by class: if a version of transformers lacks one, the ImportError tells
# ``fast_path`` that this folder cannot be used.
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaMLP,
    LlamaModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)
from transformers.models.qwen2.modeling_qwen2 import (
    Qwen2Attention,
    Qwen2DecoderLayer,
    Qwen2MLP,
    Qwen2Model,
    Qwen2RMSNorm,
    Qwen2RotaryEmbedding,
)
from transformers.models.qwen3.modeling_qwen3 import (
    Qwen3Attention,
    Qwen3DecoderLayer,
    Qwen3MLP,
    Qwen3Model,
    Qwen3RMSNorm,
    Qwen3RotaryEmbedding,
)

from omni_rlvr.models.prefix.attention_hook import Layout
from omni_rlvr.models.prefix.cpu_float32.ops import JoinedLinear, rms_norm, rotate, swiglu

KNOWN = {
    nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU, SiLUActivation,
    LlamaModel, LlamaDecoderLayer, LlamaAttention, LlamaMLP, LlamaRMSNorm, LlamaRotaryEmbedding,
    Qwen2Model, Qwen2DecoderLayer, Qwen2Attention, Qwen2MLP, Qwen2RMSNorm, Qwen2RotaryEmbedding,
    Qwen3Model, Qwen3DecoderLayer, Qwen3Attention, Qwen3MLP, Qwen3RMSNorm, Qwen3RotaryEmbedding,
}  # fmt: skip
"""The only classes that a model may consist of; a subclass may compute something else."""
BY_LENGTH = ("dynamic", "longrope")
"""Rope types that depend on the length of a pass, and so differ between rollout and update."""


class Activations(NamedTuple):
    """The activations of one layer, [S, ..] for S tokens.

    In the last layer, only keys and values are of all tokens, the others of the layout's tail.
    """

    query: Tensor
    """Queries before head norms and rotation; the same holds for keys and values."""
    keys_values: Tensor
    context: Tensor
    """The output of attention."""
    lse: Tensor | None
    """[S, H], the log-sum-exp of attention; None without a kernel that returns it."""
    attended: Tensor
    """The hidden states after attention."""
    gate_up: Tensor
    out: Tensor
    """The hidden states after the layer."""


class Layer(NamedTuple):
    """The modules whose weights a layer uses."""

    norm: Any
    query: JoinedLinear
    keys_values: JoinedLinear
    heads: list[int]
    """Number of heads of queries, keys and values."""
    head_norms: list[Any]
    """Norms of queries and keys, which only Qwen3 has."""
    o_proj: JoinedLinear
    mlp_norm: Any
    gate_up: JoinedLinear
    down: JoinedLinear
    scale: float


class FastLayers:
    """Runs a model's layers on their weights."""

    def __init__(self, language_model: PreTrainedModel):
        """Find the weights of a model that ``is_supported``."""
        model: Any = language_model.model
        self.model, self.layers = model, [_layer(layer) for layer in model.layers]

    def __call__(
        self,
        embeds: Tensor,
        positions: Tensor,
        layout: Layout,
        *,
        record: list[Activations] | None = None,
        known: Callable[[int], Activations] | None = None,
    ) -> Tensor:
        """Run all layers and the last norm, as ``attention_hook.run_layers`` does.

        Args:
            embeds: [1, S, hidden].
            positions: [1, S].
            layout: Which tokens attend to which.
            record: A list to which each layer's activations are appended.
            known: Returns a layer's activations of an earlier pass over the same tokens.

        Returns:
            [1, T, hidden], for the layout's tail; without one, T is S.
        """
        cos, sin = rotary_cos_sin(self.model, embeds[0], positions[0])
        hidden, tail = embeds[0], layout.tail
        for i, layer in enumerate(self.layers):
            have = None if known is None else known(i)
            x = rms_norm(hidden, layer.norm.weight, layer.norm.variance_epsilon)
            keys_values = layer.keys_values(x, known=have and have.keys_values)
            keys, values = _keys_values(layer, keys_values, cos, sin)
            if i + 1 == len(self.layers) and tail is not None:
                tail = tail.to(x.device)
                x, hidden, cos, sin = (part.index_select(0, tail) for part in (x, hidden, cos, sin))
            query = layer.query(x, known=have and have.query)
            rotated = _query(layer, query, cos, sin)
            before = None if have is None else (have.context, have.lse)
            context, lse = layout.attend(i, rotated, keys, values, layer.scale, before)
            context = context.flatten(2)[0]
            attended = layer.o_proj(context, residual=hidden, known=have and have.attended)
            x = rms_norm(attended, layer.mlp_norm.weight, layer.mlp_norm.variance_epsilon)
            gate_up = layer.gate_up(x, known=have and have.gate_up)
            hidden = layer.down(swiglu(gate_up), residual=attended, known=have and have.out)
            if record is not None:
                lse = None if lse is None else lse[0]
                made = Activations(query, keys_values, context, lse, attended, gate_up, hidden)
                record.append(made)
        norm = self.model.norm
        return rms_norm(hidden, norm.weight, norm.variance_epsilon).unsqueeze(0)


def rotary_cos_sin(model: Any, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Compute cosines and sines for ``rotate``: [S, 1, D] each, at positions [S]."""
    cos, sin = model.rotary_emb(hidden.unsqueeze(0), positions.unsqueeze(0))
    # put the minus of rotary's (-x2, x1) into the table once, instead of into every head
    first, second = sin[0].chunk(2, dim=-1)
    return cos[0].unsqueeze(1), torch.cat([-first, second], dim=-1).unsqueeze(1)


def is_supported(language_model: PreTrainedModel) -> bool:
    """Tell whether a model's layers can be run on their weights, with the same result."""
    model: Any = language_model.model
    # asking torch about autocast on the meta device raises an error
    if model.device.type != "meta" and torch.is_autocast_enabled(model.device.type):
        return False
    if model.rotary_emb.rope_type in BY_LENGTH:
        return False
    return all(_is_plain(module) for module in model.modules())


def _is_plain(module: Any) -> bool:
    """Tell whether a module is of a known class, in float32, without hooks or checkpointing."""
    hooks = [module._forward_hooks, module._forward_pre_hooks]  # torch has no public access to them
    hooks += [module._backward_hooks, module._backward_pre_hooks]
    own = vars(module)
    if type(module) not in KNOWN or any(hooks) or own.get("gradient_checkpointing"):
        return False
    if "forward" in own:  # accelerate's hooks replace the method on the object
        return False
    weights = module.parameters(recurse=False)
    return all(type(w) is nn.Parameter and w.dtype == torch.float32 for w in weights)


def _layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    has_norms = type(layer) is Qwen3DecoderLayer
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return Layer(
        norm=layer.input_layernorm,
        # not joined with keys and values: the last layer computes queries for fewer tokens
        query=JoinedLinear(projections[0]),
        keys_values=JoinedLinear(*projections[1:]),
        heads=[one.out_features // attention.head_dim for one in projections],
        head_norms=[attention.q_norm, attention.k_norm] if has_norms else [],
        o_proj=JoinedLinear(attention.o_proj),
        mlp_norm=layer.post_attention_layernorm,
        gate_up=JoinedLinear(mlp.gate_proj, mlp.up_proj),
        down=JoinedLinear(mlp.down_proj),
        scale=attention.scaling,
    )


def _query(layer: Layer, query: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Split [S, H * D] into heads, and normalise and rotate them: queries [1, H, S, D]."""
    heads = query.unflatten(1, (layer.heads[0], -1))
    if layer.head_norms:
        norm = layer.head_norms[0]
        heads = rms_norm(heads, norm.weight, norm.variance_epsilon)
    return rotate(heads, cos, sin).transpose(0, 1).unsqueeze(0)


def _keys_values(
    layer: Layer, keys_values: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    """Split [S, 2 kvH * D] into normalised, rotated keys and into values, [1, kvH, S, D] each."""
    keys, values = keys_values.unflatten(1, (2, layer.heads[1], -1)).unbind(1)
    if layer.head_norms:
        norm = layer.head_norms[1]
        keys = rms_norm(keys, norm.weight, norm.variance_epsilon)
    rotated = rotate(keys, cos, sin)
    return rotated.transpose(0, 1).unsqueeze(0), values.transpose(0, 1).unsqueeze(0)
