"""Decoder layers of Qwen2, Qwen3 and Llama run on their weights, past their modules' overhead.

    x += mix(attend(rotate(q, k), v)),   q, k, v = qkv(norm(x))
    x += down(silu(gate(y)) up(y)),      y = norm(x)

A pass can keep what it computes, and a later pass over the same tokens can start from that: it then
only builds the graph for backward. Whatever is not exactly as these classes make it (adapters,
hooks, autocast, other classes, checkpointing) goes through its modules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama as llama
from transformers.models.qwen2 import modeling_qwen2 as qwen2
from transformers.models.qwen3 import modeling_qwen3 as qwen3

from omni_rlvr.models.lean_ops import product, rms_norm, rotate
from omni_rlvr.models.shared_attention import Layout, can_share, no_mask, sharing

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


class Notes(NamedTuple):
    """What one layer computed for S tokens; [S, ..] each."""

    qkv: Tensor
    context: Tensor
    """What attention gave."""
    lse: Tensor | None
    """[S, H], the logarithm of its softmax's denominator; None where no kernel gives it."""
    mixed: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


class Layer(NamedTuple):
    """The modules whose weights a layer uses."""

    norm: Any
    qkv: list[nn.Linear]
    head_norms: list[Any]
    """Of queries and keys; Qwen3 alone has them."""
    mix: list[nn.Linear]
    mlp_norm: Any
    gate: list[nn.Linear]
    up: list[nn.Linear]
    down: list[nn.Linear]
    scale: float


class Pass:
    """Runs a model's layers in its own modules, with the shared attention."""

    def __init__(self, language_model: PreTrainedModel):
        """Holds the model."""
        self.language_model = language_model

    def __call__(self, embeds: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """Runs all layers and the last norm: [n, L, hidden] -> [n, L, hidden].

        Args:
            embeds: [n, L, hidden].
            positions: [n, L] or [3, n, L].
            layout: who attends to whom.
        """
        with sharing(self.language_model):
            return self.language_model.model(
                inputs_embeds=embeds,
                attention_mask=no_mask(embeds.device),
                position_ids=positions,
                use_cache=False,
                layout=layout,
            ).last_hidden_state


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
            embeds: [n, L, hidden].
            positions: [n, L].
            layout: who attends to whom.
            keep: is given each layer's notes.
            known: gives a layer's notes of an earlier pass over the same tokens, in order.
        """
        turn = self.model.rotary_emb(embeds, positions)
        cos, sin = (part.unsqueeze(2) for part in turn)
        hidden = embeds.flatten(0, 1)
        for i, layer in enumerate(self.layers):
            have = None if known is None else known(i)
            x = rms_norm(hidden, layer.norm.weight, layer.norm.variance_epsilon)
            qkv = product(x, layer.qkv, have and have.qkv)
            query, keys, values = _heads(layer, qkv.view(*embeds.shape[:2], -1), cos, sin)
            before = None if have is None else (have.context, have.lse)
            context, lse = layout.attend(i, query, keys, values, layer.scale, before)
            context = context.flatten(2).flatten(0, 1)
            mixed = product(context, layer.mix, have and have.mixed)
            hidden = hidden + mixed
            x = rms_norm(hidden, layer.mlp_norm.weight, layer.mlp_norm.variance_epsilon)
            gate = product(x, layer.gate, have and have.gate)
            up = product(x, layer.up, have and have.up)
            down = product(F.silu(gate) * up, layer.down, have and have.down)
            hidden = hidden + down
            if keep is not None:
                lse = None if lse is None else lse.flatten(0, 1)
                keep.append(Notes(qkv, context, lse, mixed, gate, up, down))
        norm = self.model.norm
        return rms_norm(hidden, norm.weight, norm.variance_epsilon).view(embeds.shape)


def make_pass(language_model: PreTrainedModel) -> Pass | LeanPass:
    """Chooses how a model that can share a prefix is run."""
    return LeanPass(language_model) if is_lean(language_model) else Pass(language_model)


def is_lean(language_model: PreTrainedModel) -> bool:
    """Tells whether a model's layers can be run on their weights, with the same result."""
    model: Any = language_model.model
    if not can_share(language_model) or torch.is_autocast_enabled(model.device.type):
        return False
    return all(_is_plain(module) for module in model.modules())


def _is_plain(module: Any) -> bool:
    """Tells whether a module is a known one, in float32, with nothing attached."""
    hooks = [module._forward_hooks, module._forward_pre_hooks]
    hooks += [module._backward_hooks, module._backward_pre_hooks]
    if type(module) not in KNOWN or any(hooks) or vars(module).get("gradient_checkpointing"):
        return False
    weights = module.parameters(recurse=False)
    return all(type(w) is nn.Parameter and w.dtype == torch.float32 for w in weights)


def _layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    has_norms = type(layer) is qwen3.Qwen3DecoderLayer
    return Layer(
        norm=layer.input_layernorm,
        qkv=[attention.q_proj, attention.k_proj, attention.v_proj],
        head_norms=[attention.q_norm, attention.k_norm] if has_norms else [],
        mix=[attention.o_proj],
        mlp_norm=layer.post_attention_layernorm,
        gate=[mlp.gate_proj],
        up=[mlp.up_proj],
        down=[mlp.down_proj],
        scale=attention.scaling,
    )


def _heads(layer: Layer, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cuts [n, L, all heads * D] into rotated queries [n, H, L, D], rotated keys, and values."""
    parts = qkv.unflatten(-1, (-1, cos.shape[-1]))
    counts = [linear.out_features // cos.shape[-1] for linear in layer.qkv]
    if layer.head_norms:
        query, keys, values = (
            rms_norm(part, norm.weight, norm.variance_epsilon) if norm is not None else part
            for part, norm in zip(
                parts.split(counts, dim=2), [*layer.head_norms, None], strict=True
            )
        )
        turned = [rotate(query, cos, sin), rotate(keys, cos, sin)]
    else:
        turning, values = parts.split([counts[0] + counts[1], counts[2]], dim=2)
        turned = list(rotate(turning, cos, sin).split(counts[:2], dim=2))
    query, keys, values = (part.transpose(1, 2) for part in (*turned, values))
    return query, keys, values
