"""Measure how many bytes one pass of a language model keeps, without weights or computation.

The model is on the meta device, where tensors have shapes and no content. Its own modules run, and
the tensors that they save for backward are counted, so that this works for every model that can
share a prefix. Attention is counted as a kernel that keeps no scores.
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
"""Length of the measured pass; bytes are proportional to it, and divided by it."""


@dataclass(frozen=True)
class PassSizes:
    """Bytes that one differentiable pass keeps, for each token unless said otherwise."""

    kept: float
    """Activations that all layers save for backward."""
    inputs: float
    """The inputs of all layers, which checkpointing saves in place of ``kept``."""
    layer: float
    """Activations that one layer saves, averaged over layers."""
    keys_values: float
    """Keys and values of all layers."""
    recorded: float
    """Activations that a rollout can keep for the update, see ``cpu_float32/activation_reuse.py``;
    0 without the fast path."""
    packed_bytes: int
    """In total, not a token: weights that the fast path copies for a rollout; 0 without it."""


def measure_pass(
    language_model: PreTrainedModel,
    *,
    autocast: torch.dtype | None,
    has_fast_path: bool,
    checkpoints: bool,
    has_axes: bool,
) -> PassSizes:
    """Measure what a pass keeps for each token.

    Args:
        language_model: A causal LM on the meta device, with ``requires_grad`` set.
        autocast: The dtype in which linear layers compute; None for that of their weights.
        has_fast_path: Whether the run's device is one that ``cpu_float32`` supports.
        has_axes: Whether positions are in time, height and width.
        checkpoints: Whether the update uses gradient checkpointing, which excludes the fast path.
    """
    text = language_model.config.get_text_config()
    embeddings: Any = language_model.get_input_embeddings()
    dtype, castable = embeddings.weight.dtype, cast(Any, language_model)
    if dtype == torch.float32 and text.to_dict().get("num_experts"):
        # on the meta device, torch's grouped matrix product of experts supports only bfloat16
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
    """A pack hook for ``saved_tensors_hooks`` that sums the bytes of saved storages, each once."""

    def __init__(self, weights: Iterable[Tensor]):
        """Take the weights, which are not counted."""
        self.num_bytes = 0
        self._known: dict[int, Any] = {}
        """Storages by address, kept alive so that no other storage gets the same address."""
        for weight in weights:
            self._add(weight)
        self.num_bytes = 0

    def __call__(self, saved: Tensor) -> Tensor:
        """Count a tensor, and return it."""
        self._add(saved)
        return saved

    def _add(self, tensor: Tensor) -> None:
        memory = tensor.untyped_storage()
        if memory._cdata not in self._known:
            self._known[memory._cdata] = memory
            self.num_bytes += memory.nbytes()


class _Layout:
    """A layout in which attention saves its inputs and outputs, as a flash kernel does."""

    tail = None

    def __init__(self) -> None:
        self.num_bytes = 0
        """Bytes of all layers' keys and values."""

    def attend(
        self,
        layer: int,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scale: float,
        known: tuple[Tensor, Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return an output of the right shape, without computing it."""
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
    """Make linear layers compute in a dtype; autocast does not support the meta device."""
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
