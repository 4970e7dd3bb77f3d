"""The attention function that transformers' causal LMs call while a prefix is shared.

It passes queries, keys and values to the layout of the pass (``packing`` in an update, ``decoding``
in a rollout), which goes through the model as the keyword argument ``layout``. The model's own
attention is restored afterwards. Models whose attention is more than softmax(q k) v do not share
prefixes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from omni_rlvr.types import UserError

NAME = "omni_rlvr_shared_prefix"
NEEDS_MORE = ("attn_logit_softcapping", "attention_chunk_size", "attention_dropout")
"""Config fields that change what attention computes, if set."""
CHANGES = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Arguments of a layer's attention function that change what it computes, if set."""


class Layout(Protocol):
    """Which tokens attend to which in one pass."""

    @property
    def tail(self) -> Tensor | None:
        """[T] int64, ascending: the tokens whose outputs are needed; None for all.

        In the last layer a pass may leave out the queries of the other tokens.
        """

    def attend(
        self,
        layer: int,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scale: float,
        known: tuple[Tensor, Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend with rotated queries [n, H, L, D] over keys and values [n, kvH, L, D].

        Args:
            layer: The index of the layer.
            query: [n, H, L, D], or [n, H, T, D] for the tail.
            keys: [n, kvH, L, D].
            values: [n, kvH, L, D].
            scale: The factor of the scores, q k^T.
            known: Output [n * L, H * D] and log-sum-exp [n * L, H] of an earlier pass, for a
                layout that can start its backward from them.

        Returns:
            Output [n, L or T, H, D], and the log-sum-exp [n, L or T, H] or None.
        """


def shared_attention(
    module: Any,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float,
    **framework_arguments,
) -> tuple[Tensor, None]:
    """Attend as the layout says; transformers' other arguments are not used."""
    # ``can_share`` recognises most models that cannot share; for the rest, an error is better than
    # a wrong number
    wants = [name for name in CHANGES if framework_arguments.get(name) is not None]
    if wants:
        raise UserError(
            f"{type(module).__name__} uses {', '.join(wants)}, which attention over a shared "
            "prompt does not support; set _supports_attention_backend = False in the model class "
            "to decode without sharing"
        )
    return layout.attend(module.layer_idx, query, keys, values, scaling)[0], None


AttentionInterface.register(NAME, shared_attention)


def can_share(language_model: PreTrainedModel) -> bool:
    """Tell whether a model's attention can share a prefix; warn once for each class if not."""
    kind, config = type(language_model), language_model.model.config
    fields = vars(config)
    windowed = "sliding_attention" if fields.get("sliding_window") else "full_attention"
    layers = set(fields.get("layer_types") or [windowed])
    wants = [field for field in NEEDS_MORE if fields.get(field)]
    if kind.is_backend_compatible() and layers == {"full_attention"} and not wants:
        return True
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(
            f"{kind.__name__}: its attention cannot share a prefix; each completion is decoded and "
            "scored with its own copy of the prompt's keys and values",
            stacklevel=2,
        )
    return False


_warned: set[type] = set()


@contextmanager
def sharing(language_model: PreTrainedModel) -> Iterator[None]:
    """Use the shared attention inside, and restore the model's own afterwards."""
    config = language_model.model.config  # the object that the layers hold
    # transformers' public setter checks the model and its sub-models each time, which takes longer
    # than a decoding step
    before = config._attn_implementation_internal
    config._attn_implementation_internal = NAME
    try:
        yield
    finally:
        config._attn_implementation_internal = before


def run_layers(
    language_model: PreTrainedModel, embeds: Tensor, positions: Tensor, layout: Layout
) -> Tensor:
    """Run a model's layers and its last norm, with the shared attention.

    Args:
        language_model: A causal LM that ``can_share``.
        embeds: [n, L, hidden].
        positions: [n, L] or [3, n, L].
        layout: Which tokens attend to which.

    Returns:
        [n, L, hidden]; [n, T, hidden] for a layout that has a tail.
    """
    with sharing(language_model):
        hidden = language_model.model(
            inputs_embeds=embeds,
            # With a four-dimensional mask, transformers builds none of its own; the attention
            # function ignores it.
            attention_mask=torch.empty(1, 1, 1, 1, device=embeds.device),
            position_ids=positions,
            use_cache=False,
            layout=layout,
        ).last_hidden_state
    return hidden if layout.tail is None else hidden[:, layout.tail.to(hidden.device)]


@contextmanager
def checkpointing(
    language_model: PreTrainedModel, again: Callable[[], AbstractContextManager]
) -> Iterator[None]:
    """Turn on gradient checkpointing inside: layers keep only their inputs for backward.

    Args:
        language_model: A model in train mode (transformers' layers do not checkpoint in eval mode).
        again: Makes the context in which backward recomputes a layer: the shared attention, which
            is no longer set when backward begins.
    """
    layers: list[Any] = [
        m for m in language_model.modules() if isinstance(m, GradientCheckpointingLayer)
    ]
    before = [layer.gradient_checkpointing for layer in layers]
    run = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), again()))
    for layer in layers:
        layer.gradient_checkpointing, layer._gradient_checkpointing_func = True, run
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.gradient_checkpointing = value
