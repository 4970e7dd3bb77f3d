"""Decoding one token a row and step: a prompt's keys and values are stored once, or G times.

``SharedDecoder`` keeps the prefix of each prompt once. In a step all its rows meet it in one
product, each row then its own suffix, which lies in memory set aside beforehand; one softmax spans
both. ``RepeatedDecoder`` repeats keys and values to the rows: the plain path, for models whose
attention cannot share. Neither samples.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from omni_rlvr.models.lean import LeanPass, Notes, make_pass
from omni_rlvr.models.packing import Packed
from omni_rlvr.models.prefix import Prompts, first_positions
from omni_rlvr.models.shared_attention import can_share
from omni_rlvr.models.tape import Tape


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


def make_decoder(
    language_model: PreTrainedModel,
    prompts: Prompts,
    *,
    num_generations: int,
    max_completion_length: int,
    keep_tape: bool = False,
) -> Decoder:
    """Makes the decoder that a model's attention allows; use under ``no_grad``.

    Only a model whose layers run on their weights (``lean``) can keep a tape.
    """
    if can_share(language_model):
        return SharedDecoder(
            language_model, prompts, num_generations, max_completion_length, keep_tape=keep_tape
        )
    return RepeatedDecoder(language_model, prompts, num_generations)


class SharedDecoder:
    """Decodes over prefixes that are stored once a prompt; it is the layout of its own passes."""

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
        self.language_model, self.prompts, self.size = language_model, prompts, size
        self.run = make_pass(language_model)
        self.tape: Tape | None = None
        self.keep_tape = keep_tape and isinstance(self.run, LeanPass)
        device, num_prompts = prompts.mask.device, len(prompts.mask)
        owners = torch.arange(num_prompts).repeat_interleave(num_generations)
        self.owners = owners.to(device)
        """[n]: which of the stored prompts each row belongs to."""
        self.rows = torch.arange(len(owners), device=device)
        """[n]: which rows these are."""
        self.position = first_positions(prompts.positions)[self.owners]
        self.padding = _padding(prompts.mask, prompts.embeds.dtype)
        self.prefixes: dict[int, tuple[Tensor, Tensor]] = {}
        self.suffixes: dict[int, tuple[Tensor, Tensor]] = {}
        self.used = 0
        self.group = num_generations
        self.slots: Tensor | None = None
        self.row_of_slot: Tensor | None = None

    def prefill(self) -> Tensor:
        """Processes the prompts as one packed row, and spreads their keys and values out."""
        mask = self.prompts.mask.bool()
        layout = Packed(mask.sum(dim=1).tolist(), [[]] * len(mask))
        layout.prefixes = {}
        embeds = self.prompts.embeds[mask]
        if self.keep_tape:
            sizes = mask.sum(dim=1).tolist()
            self.tape = Tape(self.language_model, embeds, sizes, self.owners)
        places = self.prompts.positions[..., mask].unsqueeze(-2)
        hidden, notes = self._pass(embeds.unsqueeze(0), places, layout)
        hidden = hidden[0]
        if self.tape is not None:
            self.tape.add(notes)
        for layer in list(layout.prefixes):
            keys, values = layout.prefixes.pop(layer)
            self.prefixes[layer] = (_spread(keys, mask), _spread(values, mask))
        ends = mask.sum(dim=1).cumsum(dim=0) - 1
        return self.language_model.lm_head(hidden[ends])[self.owners]

    def step(self, tokens: Tensor) -> Tensor:
        """Feeds one token a row."""
        hidden = self.language_model.get_input_embeddings()(tokens).unsqueeze(1)
        places = self.position.unsqueeze(1) + self.used
        if self.prompts.positions.ndim == 3:
            places = places.expand(3, -1, -1)
        hidden, notes = self._pass(hidden, places, self)
        if self.tape is not None:
            self.tape.add_step(self.rows, tokens, notes)
        self.used += 1
        return self.language_model.lm_head(hidden[:, 0])

    def _pass(
        self, embeds: Tensor, places: Tensor, layout: Packed | SharedDecoder
    ) -> tuple[Tensor, list[Notes]]:
        """Runs the layers: [n, L, hidden], and each layer's notes if they are recorded."""
        notes: list[Notes] = []
        if self.tape is not None and isinstance(self.run, LeanPass):
            return self.run(embeds, places, layout, keep=notes), notes
        return self.run(embeds, places, layout), notes

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
        query, keys = (query * scale).to(values.dtype), keys.to(values.dtype)
        near_keys, near_values = self._append(layer, keys, values)
        far_keys, far_values = self.prefixes[layer]
        n, heads, kv_heads = len(query), query.shape[1], keys.shape[1]
        near = query.view(n, kv_heads, -1, query.shape[-1]) @ near_keys.transpose(-1, -2)
        far = self._to_slots(query) @ far_keys.transpose(-1, -2)
        if self.padding is not None:
            far = far + self.padding
        scores = torch.cat([far, self._to_slots(near.view(n, heads, 1, -1))], dim=-1)
        probs = scores.softmax(dim=-1)
        lse = None
        if self.tape is not None:  # of the largest score s and its p = exp(s - lse)
            lse = scores.amax(dim=-1, keepdim=True) - probs.amax(dim=-1, keepdim=True).log()
            lse = self._to_rows(lse, heads)[..., 0].transpose(1, 2)
        far, near = probs.split([far_keys.shape[2], near_keys.shape[2]], dim=-1)
        near = self._to_rows(near, heads).view(n, kv_heads, -1, near.shape[-1]) @ near_values
        out = near.view(n, heads, 1, -1) + self._to_rows(far @ far_values, heads)
        return out.transpose(1, 2), lse

    def keep(self, rows: Tensor) -> None:
        """Goes on with some rows; prompts without any leave too."""
        prompts, owners, counts = self.owners[rows].unique(return_inverse=True, return_counts=True)
        if len(prompts) < len(self.prefixes[0][0]):
            self.prefixes = {i: (k[prompts], v[prompts]) for i, (k, v) in self.prefixes.items()}
            self.padding = None if self.padding is None else self.padding[prompts]
        self.suffixes = {i: (k[rows], v[rows]) for i, (k, v) in self.suffixes.items()}
        self.owners, self.rows = owners, self.rows[rows]
        self.position = self.position[rows]
        self.group = int(counts.max())
        self.slots = self.row_of_slot = None
        if int(counts.min()) < self.group:  # rows of a prompt stand in slots b*group + 0, 1, ..
            starts = counts.cumsum(dim=0) - counts
            places = torch.arange(len(rows), device=rows.device) - starts[owners]
            self.slots = owners * self.group + places
            self.row_of_slot = torch.zeros_like(prompts).repeat_interleave(self.group)
            self.row_of_slot[self.slots] = torch.arange(len(rows), device=rows.device)

    def _append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Writes a step's keys and values behind the earlier ones, and returns all of them."""
        if layer not in self.suffixes:
            n, kv_heads, _, width = keys.shape
            shape = (n, kv_heads, self.size, width)
            self.suffixes[layer] = (keys.new_empty(shape), values.new_empty(shape))
        suffix = self.suffixes[layer]
        for store, new in zip(suffix, (keys, values), strict=True):
            store[:, :, self.used] = new[:, :, 0]
        return suffix[0][:, :, : self.used + 1], suffix[1][:, :, : self.used + 1]

    def _to_slots(self, rows: Tensor) -> Tensor:
        """Groups rows by prompt: [n, H, 1, D] -> [B, kvH, r*group, D]."""
        if self.row_of_slot is not None:
            rows = rows[self.row_of_slot]
        kv_heads = self.prefixes[0][0].shape[1]
        rows = rows.view(-1, self.group, kv_heads, rows.shape[1] // kv_heads, rows.shape[-1])
        return rows.transpose(1, 2).flatten(2, 3)

    def _to_rows(self, slots: Tensor, heads: int) -> Tensor:
        """Undoes ``_to_slots``: [B, kvH, r*group, D] -> [n, H, 1, D]."""
        kv_heads, width = slots.shape[1], slots.shape[-1]
        rows = slots.view(-1, kv_heads, self.group, heads // kv_heads, width).transpose(1, 2)
        rows = rows.reshape(-1, heads, 1, width)
        return rows if self.slots is None else rows[self.slots]


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


def _padding(mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """What is added to scores so that left padding gets no weight: [B, 1, 1, P], or None."""
    if bool(mask.all()):
        return None
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill(mask == 0, float("-inf"))[:, None, None]


def _spread(packed: Tensor, mask: Tensor) -> Tensor:
    """Moves a packed row's [1, kvH, S, D] to its left-padded places: [B, kvH, P, D]."""
    out = packed.new_zeros(*mask.shape, packed.shape[1], packed.shape[3])
    out[mask] = packed[0].transpose(0, 1)
    return out.transpose(1, 2).contiguous()
