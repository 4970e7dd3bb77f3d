"""The attention function that transformers' causal LMs call while a prefix is shared.

It hands queries, keys and values to the layout of the pass (``packing`` in an update, ``decoding``
in a rollout), which travels down the model as the keyword ``layout``. The model's own attention is
set back afterwards. Models whose attention means more than softmax(q k) v are left to the plain
path.
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
"""Config fields that, when set, change what attention computes."""
CHANGES = ("sliding_window", "softcap", "s_aux", "position_bias")
"""The same, among the arguments that a layer hands to its attention function."""


class Layout(Protocol):
    """Who attends to whom in one pass."""

    @property
    def tail(self) -> Tensor | None:
        """[T] int64, rising: the tokens that a pass is for; None for all. In the last layer a pass
        may leave out the queries of the others.
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
            layer: Its number.
            query: [n, H, L, D], or [n, H, T, D] of the tail.
            keys: [n, kvH, L, D].
            values: [n, kvH, L, D].
            scale: Of the scores.
            known: Output [n * L, H * D] and log-sum-exp [n * L, H] of an earlier pass, for a
                layout that can start its backward from them.

        Returns:
            [n, L or T, H, D], and the log-sum-exp [n, L or T, H] where it is known.
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
    """Attend as the pass's layout says; what transformers hands over besides is not needed."""
    # ``can_share`` sends the models that it recognises to the plain path; for one that it does not
    # recognise, an error is better than a wrong number
    wants = [name for name in CHANGES if framework_arguments.get(name) is not None]
    if wants:
        raise UserError(
            f"{type(module).__name__} uses {', '.join(wants)}, which attention over a shared "
            "prompt does not compute; a model class with _supports_attention_backend = False takes "
            "the plain path"
        )
    return layout.attend(module.layer_idx, query, keys, values, scaling)[0], None


AttentionInterface.register(NAME, shared_attention)


def can_share(language_model: PreTrainedModel) -> bool:
    """Say whether a model's attention can be swapped; warn, once a kind of model, if not."""
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
    """Set the shared attention for the time of a pass."""
    config = language_model.model.config  # the one that the layers hold
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
    """Run a model's layers and its last norm in its own modules, with the shared attention.

    Args:
        language_model: A causal LM that ``can_share``.
        embeds: [n, L, hidden].
        positions: [n, L] or [3, n, L].
        layout: Who attends to whom.

    Returns:
        [n, L, hidden]; [n, T, hidden] for a layout that has a tail.
    """
    with sharing(language_model):
        hidden = language_model.model(
            inputs_embeds=embeds,
            # transformers takes a four-dimensional mask for a finished one and builds none; it is
            # handed to the attention function as it is, which never reads it
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
    """Make layers keep only their inputs; backward computes them once more.

    Args:
        language_model: In train mode (transformers' layers do not checkpoint in eval mode).
        again: Makes the context in which backward repeats a layer: the shared attention, which is
            set back before backward begins.
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
