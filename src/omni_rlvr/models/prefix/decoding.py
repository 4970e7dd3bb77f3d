"""Decoding one token a row and step: a prompt's keys and values are stored once, or G times.

``SharedDecoder`` keeps the prefix of each prompt once. In a step all its rows meet it in one
product, each row then its own suffix, which lies in memory set aside beforehand; one softmax spans
both. ``RepeatedDecoder`` repeats keys and values to the rows: the plain path, for models whose
attention cannot share. ``lean_decoding`` has the fastest. None samples.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from omni_rlvr.models.prefix.cpu_float32.activation_reuse import Tape
from omni_rlvr.models.prefix.cpu_float32.layers import Pass
from omni_rlvr.models.prefix.kv_cache import Slots
from omni_rlvr.models.prefix.packing import Order
from omni_rlvr.models.prefix.scoring import first_positions
from omni_rlvr.types import Prompts


class Decoder(Protocol):
    """Feeds tokens and returns the logits of the next, for rows ``b*G + g`` that may leave."""

    tape: Tape | None
    """What was computed so far, if that is recorded."""

    def prefill(self) -> Tensor:
        """Processes the prompts: [N, V], the logits of each row's first token."""

    def step(self, tokens: Tensor) -> Tensor:
        """Feeds one token a row [n]: [n, V]."""

    def keep(self, rows: Tensor) -> None:
        """Goes on with these of the present rows [m], in rising order."""


class SharedDecoder:
    """Decodes over prefixes that are stored once a prompt; it is the layout of its own steps."""

    tail = None

    def __init__(
        self, language_model: PreTrainedModel, prompts: Prompts, num_generations: int, size: int
    ):
        """Plans for N = B*G rows of at most ``size`` tokens."""
        self.language_model, self.prompts = language_model, prompts
        self.run = Pass(language_model)
        self.tape: Tape | None = None
        self.slots = Slots(prompts.mask, num_generations, size)
        self.position = first_positions(prompts.positions)[self.slots.owners]

    def prefill(self) -> Tensor:
        """Processes the prompts as one packed row, and stores their keys and values."""
        mask = self.prompts.mask.bool()
        order = Order(mask.sum(dim=1).tolist(), [], [])
        order.packed.prefixes = {}
        embeds = self.prompts.embeds[mask]
        places = self.prompts.positions[..., mask][..., order.source.to(mask.device)]
        hidden = self._prefill(embeds, places.unsqueeze(-2), order)[0]
        self.slots.fill(order.packed.prefixes, order.starts)
        ends = order.ends.to(mask.device)
        return self.language_model.lm_head(hidden[ends])[self.slots.owners]

    def _prefill(self, embeds: Tensor, places: Tensor, order: Order) -> Tensor:
        """Runs the layers: the prompts' [S, hidden], at places [1, S] of the order -> [1, T, ..]
        of the tail.
        """
        return self.run(embeds[order.source.to(embeds.device)].unsqueeze(0), places, order.packed)

    def step(self, tokens: Tensor) -> Tensor:
        """Feeds one token a row."""
        embeds = self.language_model.get_input_embeddings()(tokens)
        places = self.position + self.slots.used
        hidden = self._step(embeds, places, tokens)
        self.slots.used += 1
        return self.language_model.lm_head(hidden)

    def _step(self, embeds: Tensor, places: Tensor, tokens: Tensor) -> Tensor:
        """Runs the layers: [n, hidden] at [n] -> [n, hidden]."""
        places = places.unsqueeze(1)
        if self.prompts.positions.ndim == 3:
            places = places.expand(3, -1, -1)
        return self.run(embeds.unsqueeze(1), places, self)[:, 0]

    def attend(
        self,
        layer: int,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scale: float,
        known: tuple[Tensor, Tensor | None] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends with one query a row; see ``shared_attention.Layout``."""
        num, heads, _, width = query.shape
        query = (query * scale).to(values.dtype).view(num, keys.shape[1], -1, width)
        keys_values = torch.stack([keys[:, :, 0].to(values.dtype), values[:, :, 0]], dim=1)
        out, _ = self.slots.attend(layer, query, keys_values)
        return out.view(num, 1, heads, width), None

    def keep(self, rows: Tensor) -> None:
        """Goes on with some rows; prompts without any leave too."""
        self.position = self.position[rows]
        self.slots.keep(rows)


class RepeatedDecoder:
    """Decodes with each prompt's keys and values repeated to its rows."""

    def __init__(self, language_model: PreTrainedModel, prompts: Prompts, num_generations: int):
        """Plans for N = B*G rows."""
        self.language_model, self.prompts = language_model, prompts
        self.num_generations = num_generations
        self.tape: Tape | None = None
        self.cache = DynamicCache()
        self.mask = prompts.mask.repeat_interleave(num_generations, dim=0)
        starts = first_positions(prompts.positions)
        self.position = starts.repeat_interleave(num_generations).unsqueeze(1)

    def prefill(self) -> Tensor:
        """Processes each prompt once."""
        logits = self._forward(self.prompts.embeds, self.prompts.mask, self.prompts.positions)
        self.cache.batch_repeat_interleave(self.num_generations)
        return logits.repeat_interleave(self.num_generations, dim=0)

    def step(self, tokens: Tensor) -> Tensor:
        """Feeds one token a row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        embeds = self.language_model.get_input_embeddings()(tokens).unsqueeze(1)
        places = self.position.expand(*self.prompts.positions.shape[:-2], -1, -1)
        self.position = self.position + 1
        return self._forward(embeds, self.mask, places)

    def keep(self, rows: Tensor) -> None:
        """Goes on with some rows."""
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]

    def _forward(self, embeds: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        hidden = self.language_model.model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        return self.language_model.lm_head(hidden[:, -1])
