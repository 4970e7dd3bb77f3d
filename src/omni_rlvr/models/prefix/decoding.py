"""Decode one token a row and step, with a prompt's keys and values stored once, or G times.

``SharedDecoder`` stores the prefix of each prompt once. In a step, one product computes the scores
of all rows of a prompt over the prefix, another those of each row over its own suffix, for which
memory is allocated in advance; one softmax spans both. ``RepeatedDecoder`` repeats keys and values
for every row, for models whose attention cannot share. The fast path has a faster decoder for some
models. No decoder samples.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from omni_rlvr.models.prefix.attention_hook import can_share, run_layers
from omni_rlvr.models.prefix.fast_path import fast_path
from omni_rlvr.models.prefix.kv_cache import KVCache
from omni_rlvr.models.prefix.packing import Order
from omni_rlvr.models.prefix.scoring import first_positions
from omni_rlvr.types import Prompts

log = logging.getLogger(__name__)


class Decoder(Protocol):
    """Feeds tokens and returns the next ones' logits, for rows ``b*G + g``; rows may leave."""

    def prefill(self) -> Tensor:
        """Process the prompts and return the logits of each row's first token, [N, V]."""

    def step(self, tokens: Tensor) -> Tensor:
        """Feed one token to each row ([n]) and return the logits of the next, [n, V]."""

    def keep(self, rows: Tensor) -> None:
        """Continue with only some of the present rows: their indices [m], ascending."""

    def activations(self) -> object | None:
        """Return the layers' activations of all N rows; None if they were not kept."""


def make_decoder(
    language_model: PreTrainedModel,
    prompts: Prompts,
    *,
    num_generations: int,
    max_completion_length: int,
    keep_activations: bool = False,
) -> Decoder:
    """Make the fastest decoder for a model; use it under ``no_grad``.

    Args:
        language_model: A transformers causal LM.
        prompts: B prompts.
        num_generations: G, the rows of each.
        max_completion_length: Most tokens of a row.
        keep_activations: Whether to keep the layers' activations for the update; only a decoder
            of the fast path can.
    """
    if not can_share(language_model):
        return RepeatedDecoder(language_model, prompts, num_generations)
    plan = (language_model, prompts, num_generations, max_completion_length)
    fast = fast_path()
    if fast is not None and fast.supports(language_model, prompts.positions):
        return fast.make_decoder(*plan, keep_activations=keep_activations)
    if keep_activations:
        _say_that_none_are_kept(type(language_model).__name__)
    return SharedDecoder(*plan)


@cache  # once for each class of model, not at every step
def _say_that_none_are_kept(kind: str) -> None:
    log.info("stage.reuse_rollout has no effect: there is no fast path for %s here", kind)


class SharedDecoder:
    """Decodes with each prefix stored once; its ``attend`` is the ``Layout`` of its steps."""

    tail = None

    def __init__(
        self, language_model: PreTrainedModel, prompts: Prompts, num_generations: int, size: int
    ):
        """Plan for N = B*G rows of at most ``size`` tokens."""
        self.language_model, self.prompts = language_model, prompts
        self.cache = KVCache(prompts.mask, num_generations, size)
        self.position = first_positions(prompts.positions)[self.cache.owners]

    def prefill(self) -> Tensor:
        """Process the prompts as one packed row, and store their keys and values."""
        mask = self.prompts.mask.bool()
        order = Order(mask.sum(dim=1).tolist(), [], [])
        order.packed.prefixes = {}
        embeds = self.prompts.embeds[mask]
        places = self.prompts.positions[..., mask][..., order.source.to(mask.device)]
        hidden = self._prefill(embeds, places.unsqueeze(-2), order)[0]
        self.cache.fill(order.packed.prefixes, order.starts)
        ends = order.ends.to(mask.device)
        return self.language_model.lm_head(hidden[ends])[self.cache.owners]

    def _prefill(self, embeds: Tensor, places: Tensor, order: Order) -> Tensor:
        """Run the layers over the prompts' [S, hidden], with positions [1, S] in the order.

        Returns:
            [1, T, hidden] of the tail.
        """
        row = embeds[order.source.to(embeds.device)].unsqueeze(0)
        return run_layers(self.language_model, row, places, order.packed)

    def step(self, tokens: Tensor) -> Tensor:
        """Feed one token a row."""
        embeds = self.language_model.get_input_embeddings()(tokens)
        places = self.position + self.cache.used
        hidden = self._step(embeds, places, tokens)
        self.cache.used += 1
        return self.language_model.lm_head(hidden)

    def _step(self, embeds: Tensor, places: Tensor, tokens: Tensor) -> Tensor:
        """Run the layers for one token a row: [n, hidden] at positions [n] -> [n, hidden]."""
        places = places.unsqueeze(1)
        if self.prompts.positions.ndim == 3:  # a text token has the same position on all three axes
            places = places.expand(3, -1, -1)
        return run_layers(self.language_model, embeds.unsqueeze(1), places, self)[:, 0]

    def attend(
        self,
        layer: int,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scale: float,
        known: tuple[Tensor, Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend with one query a row; see ``attention_hook.Layout``."""
        num, heads, _, width = query.shape
        query = (query * scale).to(values.dtype).view(num, keys.shape[1], -1, width)
        keys_values = torch.stack([keys[:, :, 0].to(values.dtype), values[:, :, 0]], dim=1)
        out, _ = self.cache.attend(layer, query, keys_values)
        return out.view(num, 1, heads, width), None

    def keep(self, rows: Tensor) -> None:
        """Continue with some rows; prompts without rows are dropped."""
        self.position = self.position[rows]
        self.cache.keep(rows)

    def activations(self) -> object | None:
        """Return None: modules show nothing of what they compute on the way."""
        return None


class RepeatedDecoder:
    """Decodes with each prompt's keys and values repeated for its rows."""

    def __init__(self, language_model: PreTrainedModel, prompts: Prompts, num_generations: int):
        """Plan for N = B*G rows."""
        self.language_model, self.prompts = language_model, prompts
        self.num_generations = num_generations
        self.cache = DynamicCache()
        self.mask = prompts.mask.repeat_interleave(num_generations, dim=0)
        starts = first_positions(prompts.positions)
        self.position = starts.repeat_interleave(num_generations).unsqueeze(1)

    def prefill(self) -> Tensor:
        """Process each prompt once."""
        logits = self._forward(self.prompts.embeds, self.prompts.mask, self.prompts.positions)
        self.cache.batch_repeat_interleave(self.num_generations)
        return logits.repeat_interleave(self.num_generations, dim=0)

    def step(self, tokens: Tensor) -> Tensor:
        """Feed one token a row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        embeds = self.language_model.get_input_embeddings()(tokens).unsqueeze(1)
        places = self.position.expand(*self.prompts.positions.shape[:-2], -1, -1)
        self.position = self.position + 1
        return self._forward(embeds, self.mask, places)

    def keep(self, rows: Tensor) -> None:
        """Continue with some rows."""
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]

    def activations(self) -> object | None:
        """Return None: modules show nothing of what they compute on the way."""
        return None

    def _forward(self, embeds: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        hidden = self.language_model.model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        return self.language_model.lm_head(hidden[:, -1])
