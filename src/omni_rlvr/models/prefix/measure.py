"""Measures what one pass of a language model keeps, without weights and without computing.

The model is on the meta device, where tensors have shapes and no content: its own modules run, and
what they save for backward is counted. So this holds for every model that can share a prefix,
whatever its layers are made of. Attention is counted as a kernel that keeps no scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from omni_rlvr.models.prefix.attention_hook import can_share, run_layers
from omni_rlvr.models.prefix.fast_path import fast_path

NUM_TOKENS = 64
"""What is counted is proportional to the tokens; these are divided by."""


@dataclass(frozen=True)
class PassSizes:
    """Bytes a token of one differentiable pass."""

    kept: float
    """What all layers save for backward."""
    inputs: float
    """The inputs of all layers, which checkpointing saves in place of ``kept``."""
    layer: float
    """What one layer saves, the mean of all."""
    keys_values: float
    """Keys and values of all layers."""
    recorded: float
    """What a rollout can keep for the update, see ``cpu_float32/activation_reuse.py``; 0 where the
    fast path cannot run."""
    packed_bytes: int
    """Of all tokens: the weights that the fast path copies for a rollout; else 0."""


def measure_pass(
    language_model: PreTrainedModel,
    *,
    autocast: torch.dtype | None,
    has_fast_path: bool,
    checkpoints: bool,
    has_axes: bool,
) -> PassSizes:
    """Count what a pass keeps for each token.

    Args:
        language_model: A causal LM on the meta device, with what trains set.
        autocast: What linear layers compute in; None for the type of their weights.
        has_fast_path: Whether the device is one on which ``cpu_float32`` runs what it can.
        has_axes: Whether positions are in time, height and width.
        checkpoints: Whether the update checkpoints layers, which the fast path leaves to modules.
    """
    text = language_model.config.get_text_config()
    embeddings: Any = language_model.get_input_embeddings()
    dtype, castable = embeddings.weight.dtype, cast(Any, language_model)
    if dtype == torch.float32 and text.to_dict().get("num_experts"):
        # torch's product of grouped experts knows bfloat16 alone on the meta device
        castable.to(torch.bfloat16)
        half = measure_pass(
            language_model,
            autocast=None,
            has_fast_path=False,
            checkpoints=checkpoints,
            has_axes=has_axes,
        )
        castable.to(dtype)
        return PassSizes(
            kept=2 * half.kept,
            inputs=2 * half.inputs,
            layer=2 * half.layer,
            keys_values=2 * half.keys_values,
            recorded=0.0,
            packed_bytes=0,
        )
    count, layout = SavedBytes(language_model.parameters()), _Layout()
    embeds = torch.zeros(1, NUM_TOKENS, text.hidden_size, device="meta", dtype=dtype)
    embeds.requires_grad_()
    positions = torch.arange(NUM_TOKENS, device="meta").unsqueeze(0)
    positions = positions.expand(3, 1, -1) if has_axes else positions
    run: Any = run_layers
    fast = fast_path() if has_fast_path and autocast is None else None
    if fast and not (can_share(language_model) and fast.supports(language_model, positions)):
        fast = None
    if fast is not None and not checkpoints:
        run = fast.run_layout
    hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda saved: saved)
    with torch.enable_grad(), _computing_in(language_model, autocast), hooks:
        run(language_model, embeds, positions, layout)
    keys_values = layout.num_bytes / NUM_TOKENS
    num_layers = text.num_hidden_layers
    width = embeds.element_size() * text.hidden_size
    return PassSizes(
        kept=count.num_bytes / NUM_TOKENS,
        inputs=float(num_layers * width),
        layer=count.num_bytes / NUM_TOKENS / num_layers,
        keys_values=keys_values,
        recorded=0.0 if fast is None else fast.recorded(language_model, embeds, positions, layout),
        packed_bytes=0 if fast is None else fast.packed_bytes(language_model),
    )


class SavedBytes:
    """Adds up what autograd saves, each piece of memory once; for ``saved_tensors_hooks``."""

    def __init__(self, weights: Iterable[Tensor]):
        """Leave out what is there anyway."""
        self.num_bytes = 0
        self._known: dict[int, Any] = {}
        """Kept alive, so that no other piece of memory gets its number."""
        for weight in weights:
            self._add(weight)
        self.num_bytes = 0

    def __call__(self, saved: Tensor) -> Tensor:
        """Add a tensor, and hand it on."""
        self._add(saved)
        return saved

    def _add(self, tensor: Tensor) -> None:
        memory = tensor.untyped_storage()
        if memory._cdata not in self._known:
            self._known[memory._cdata] = memory
            self.num_bytes += memory.nbytes()


class _Layout:
    """Stands for the attention of a kernel: it keeps its inputs and outputs."""

    tail = None

    def __init__(self) -> None:
        self.num_bytes = 0
        """Of all layers' keys and values."""

    def attend(
        self,
        layer: int,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scale: float,
        known: tuple[Tensor, Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Give an output of the right shape."""
        query, keys = query.to(values.dtype), keys.to(values.dtype)
        self.num_bytes += keys.nbytes + values.nbytes
        return _Kept.apply(query, keys, values), None


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        n, heads, length, _ = query.shape
        out = values.new_empty(n, length, heads, values.shape[-1])
        lse = values.new_empty(n, length, heads, dtype=torch.float32)
        ctx.save_for_backward(query, keys, values, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError("nothing is computed on the meta device")


@contextmanager
def _computing_in(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Make linear layers compute in a type, as autocast does; it does not know the meta device."""
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)] if dtype else []
    before = [(layer, layer.weight, layer.bias) for layer in linear]

    def cast(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(arg.to(dtype) for arg in args)

    hooks = [layer.register_forward_pre_hook(cast) for layer in linear]
    try:
        for layer, weight, bias in before:
            layer.weight = nn.Parameter(weight.to(dtype), weight.requires_grad)
            layer.bias = bias if bias is None else nn.Parameter(bias.to(dtype), bias.requires_grad)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, weight, bias in before:
            layer.weight, layer.bias = weight, bias
