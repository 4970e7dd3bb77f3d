"""Decoder layers of Qwen2, Qwen3 and Llama run on their weights, past their modules' overhead.

    x += mix(attend(rotate(q, k), v)),   q, k, v = qkv(norm(x))
    x += down(silu(gate(y)) up(y)),      y = norm(x)

In the last layer a token that predicts nothing gives its keys and values and no more. A pass can
keep what it computes, and a later pass over the same tokens can start from that: it then only
builds the graph for backward. Whatever is not exactly as these classes make it (adapters,
hooks, autocast, other classes, checkpointing) goes through its modules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama as llama
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.models.qwen3 import modeling_qwen3 as qwen3

from omni_rlvr.models.prefix.attention_hook import Layout, can_share, no_mask, sharing
from omni_rlvr.models.prefix.cpu_float32.ops import Product, rms_norm, rotate, swiglu

KNOWN = {
    nn.Linear, nn.Embedding, nn.ModuleList, nn.SiLU, SiLUActivation,
    llama.LlamaModel, llama.LlamaDecoderLayer, llama.LlamaAttention, llama.LlamaMLP,
    llama.LlamaRMSNorm, llama.LlamaRotaryEmbedding,
    qwen2.Qwen2Model, qwen2.Qwen2DecoderLayer, qwen2.Qwen2Attention, qwen2.Qwen2MLP,
    qwen2.Qwen2RMSNorm, qwen2.Qwen2RotaryEmbedding,
    qwen3.Qwen3Model, qwen3.Qwen3DecoderLayer, qwen3.Qwen3Attention, qwen3.Qwen3MLP,
    qwen3.Qwen3RMSNorm, qwen3.Qwen3RotaryEmbedding,
}  # fmt: skip
"""What a model may be made of, exactly: a subclass may compute something else."""
BY_LENGTH = ("dynamic", "longrope")
"""Rotations that depend on how long a pass is: an update's are not a rollout's."""


class Notes(NamedTuple):
    """What one layer computed, [S, ..] for its S tokens; but the last layer computes keys and
    values for all, the rest for the tail of its layout.
    """

    query: Tensor
    """Before head norms and rotation, as keys and values."""
    keys_values: Tensor
    context: Tensor
    """What attention gave."""
    lse: Tensor | None
    """[S, H], the logarithm of its softmax's denominator; None where no kernel gives it."""
    attended: Tensor
    """The hidden states behind attention."""
    gate_up: Tensor
    out: Tensor
    """The hidden states behind the layer."""


class Layer(NamedTuple):
    """The modules whose weights a layer uses."""

    norm: Any
    query: Product
    keys_values: Product
    heads: list[int]
    """Of queries, keys and values."""
    head_norms: list[Any]
    """Of queries and keys; Qwen3 alone has them."""
    mix: Product
    mlp_norm: Any
    gate_up: Product
    down: Product
    scale: float


class Pass:
    """Runs a model's layers in its own modules, with the shared attention."""

    def __init__(self, language_model: PreTrainedModel):
        """Holds the model."""
        self.language_model = language_model

    def __call__(self, embeds: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """Runs all layers and the last norm.

        Args:
            embeds: [n, L, hidden].
            positions: [n, L] or [3, n, L].
            layout: who attends to whom.

        Returns:
            [n, L, hidden]; [n, T, hidden] for a layout that has a tail.
        """
        with sharing(self.language_model):
            hidden = self.language_model.model(
                inputs_embeds=embeds,
                attention_mask=no_mask(embeds.device),
                position_ids=positions,
                use_cache=False,
                layout=layout,
            ).last_hidden_state
        return hidden if layout.tail is None else hidden[:, layout.tail.to(hidden.device)]


class LeanPass:
    """Runs a model's layers on their weights."""

    def __init__(self, language_model: PreTrainedModel):
        """Finds the weights of a model that ``is_lean``."""
        model: Any = language_model.model
        self.model, self.layers = model, [_layer(layer) for layer in model.layers]

    def __call__(
        self,
        embeds: Tensor,
        positions: Tensor,
        layout: Layout,
        *,
        keep: list[Notes] | None = None,
        known: Callable[[int], Notes] | None = None,
    ) -> Tensor:
        """Runs all layers and the last norm, as ``Pass`` does.

        Args:
            embeds: [1, S, hidden].
            positions: [1, S].
            layout: who attends to whom.
            keep: is given each layer's notes.
            known: gives a layer's notes of an earlier pass over the same tokens, in order.

        Returns:
            [1, T, hidden], for the layout's tail; without one T is S.
        """
        cos, sin = turns(self.model, embeds[0], positions[0])
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
            turned = _query(layer, query, cos, sin)
            before = None if have is None else (have.context, have.lse)
            context, lse = layout.attend(i, turned, keys, values, layer.scale, before)
            context = context.flatten(2)[0]
            attended = layer.mix(context, residual=hidden, known=have and have.attended)
            x = rms_norm(attended, layer.mlp_norm.weight, layer.mlp_norm.variance_epsilon)
            gate_up = layer.gate_up(x, known=have and have.gate_up)
            hidden = layer.down(swiglu(gate_up), residual=attended, known=have and have.out)
            if keep is not None:
                lse = None if lse is None else lse[0]
                keep.append(Notes(query, keys_values, context, lse, attended, gate_up, hidden))
        norm = self.model.norm
        return rms_norm(hidden, norm.weight, norm.variance_epsilon).unsqueeze(0)


def turns(model: Any, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines for ``rotate``: [S, 1, D] each, at positions [S]."""
    cos, sin = model.rotary_emb(hidden.unsqueeze(0), positions.unsqueeze(0))
    first, second = sin[0].chunk(2, dim=-1)
    return cos[0].unsqueeze(1), torch.cat([-first, second], dim=-1).unsqueeze(1)


def make_pass(language_model: PreTrainedModel) -> Pass | LeanPass:
    """Chooses how a model that can share a prefix is run."""
    return LeanPass(language_model) if is_lean(language_model) else Pass(language_model)


def is_lean(language_model: PreTrainedModel) -> bool:
    """Tells whether a model's layers can be run on their weights, with the same result."""
    model: Any = language_model.model
    if not can_share(language_model) or torch.is_autocast_enabled(model.device.type):
        return False
    if model.rotary_emb.rope_type in BY_LENGTH:
        return False
    return all(_is_plain(module) for module in model.modules())


def _is_plain(module: Any) -> bool:
    """Tells whether a module is a known one, in float32, with nothing attached."""
    hooks = [module._forward_hooks, module._forward_pre_hooks]
    hooks += [module._backward_hooks, module._backward_pre_hooks]
    own = vars(module)
    if type(module) not in KNOWN or any(hooks) or own.get("gradient_checkpointing"):
        return False
    if "forward" in own:  # as accelerate's hooks have it
        return False
    weights = module.parameters(recurse=False)
    return all(type(w) is nn.Parameter and w.dtype == torch.float32 for w in weights)


def _layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    has_norms = type(layer) is qwen3.Qwen3DecoderLayer
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return Layer(
        norm=layer.input_layernorm,
        query=Product(projections[0]),
        keys_values=Product(*projections[1:]),
        heads=[one.out_features // attention.head_dim for one in projections],
        head_norms=[attention.q_norm, attention.k_norm] if has_norms else [],
        mix=Product(attention.o_proj),
        mlp_norm=layer.post_attention_layernorm,
        gate_up=Product(mlp.gate_proj, mlp.up_proj),
        down=Product(mlp.down_proj),
        scale=attention.scaling,
    )


def _query(layer: Layer, query: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Cuts [S, H * D] into rotated queries [1, H, S, D]."""
    heads = query.unflatten(1, (layer.heads[0], -1))
    if layer.head_norms:
        norm = layer.head_norms[0]
        heads = rms_norm(heads, norm.weight, norm.variance_epsilon)
    return rotate(heads, cos, sin).transpose(0, 1).unsqueeze(0)


def _keys_values(
    layer: Layer, keys_values: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    """Cuts [S, 2 kvH * D] into rotated keys [1, kvH, S, D] and values."""
    keys, values = keys_values.unflatten(1, (2, layer.heads[1], -1)).unbind(1)
    if layer.head_norms:
        norm = layer.head_norms[1]
        keys = rms_norm(keys, norm.weight, norm.variance_epsilon)
    turned = rotate(keys, cos, sin)
    return turned.transpose(0, 1).unsqueeze(0), values.transpose(0, 1).unsqueeze(0)
