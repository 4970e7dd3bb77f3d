"""What the passes of a rollout computed, kept so that the update need not compute it again.

The first update at the weights that sampled runs over the same tokens as the rollout did. Its
forward pass then only puts the rollout's results in its own order and builds the graph; gradients
are those of a pass of its own, to rounding. Whether that holds is checked, not assumed: the model,
its weights, the prompts' embeddings and positions, whose rows they are, and the tokens must be
those that were recorded. Weights count their changes in place; one made past that (``weight.data``)
is not seen.

Memory: a layer's ``Notes`` for every token of the rollout, about what the update's forward pass
would hold for backward, from the rollout on and for all rows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from omni_rlvr.models.prefix.cpu_float32.layers import Notes
from omni_rlvr.models.prefix.packing import Order


class Tape:
    """A recording of one rollout; it can be played once, and is used up by that."""

    def __init__(
        self,
        language_model: PreTrainedModel,
        embeds: Tensor,
        positions: Tensor,
        order: Order,
        owners: Tensor,
    ):
        """Starts with the prompts.

        Args:
            language_model: that decodes.
            embeds: [S, hidden], the prompts' tokens one after the other.
            positions: [S], theirs.
            order: in which they are processed.
            owners: [N] int64, the prompt of each row.
        """
        self.language_model, self.versions = language_model, _versions(language_model)
        self.embeds, self.positions = embeds, positions
        self.sizes, self.owners = list(order.sizes), owners
        self.starts, self.ends = order.starts, order.ends.tolist()
        """Where prompts start in the notes; where their last tokens are in those of the tail."""
        self.layers: list[list[Notes]] = [[] for _ in language_model.model.layers]
        """For each layer its notes of the prompts, then of each step."""
        self.rows: list[Tensor] = []
        """For each step the rows that were fed, and which tokens."""
        self.tokens: list[Tensor] = []

    def add(self, notes: list[Notes]) -> None:
        """Records one pass: the prompts' first, then a step's."""
        for layer, note in zip(self.layers, notes, strict=True):
            layer.append(note)

    def add_step(self, rows: Tensor, tokens: Tensor, notes: list[Notes]) -> None:
        """Records a step: [n] row numbers, the tokens fed to them, and the notes."""
        self.rows.append(rows)
        self.tokens.append(tokens)
        self.add(notes)

    def is_of(self, language_model: PreTrainedModel) -> bool:
        """Tells whether this can be played for a model as it is now."""
        same = self.language_model is language_model and bool(self.layers)
        return same and self.versions == _versions(language_model)


@dataclass(frozen=True)
class TapeRows:
    """Some rows of a recording."""

    tape: Tape
    rows: Tensor
    """[n] int64, numbers of rows of the rollout."""

    def select(self, rows: Tensor) -> TapeRows:
        """Takes some of these rows, [m] int64."""
        return TapeRows(self.tape, self.rows[rows])

    def play(
        self,
        language_model: PreTrainedModel,
        embeds: Tensor,
        positions: Tensor,
        order: Order,
        ids: Tensor,
    ) -> Callable[[int], Notes] | None:
        """Gives the layers' notes in the order of a packed row.

        Args:
            language_model: that will use them.
            embeds: [S, hidden], tokens of the prompts of these rows, prompts in rising order.
            positions: [S], theirs.
            order: where the prompts and the rows' tokens stand.
            ids: [n, T], the rows' tokens.

        Returns:
            What gives layer i's notes, to be asked for 0, 1, ... once; None if what was recorded
            is something else.
        """
        tape = self.tape
        if not tape.is_of(language_model):
            return None
        starts, steps = self._prompt_starts(order), self._step_places(order, ids)
        if starts is None or steps is None:
            return None
        for recorded, given in ((tape.embeds, embeds), (tape.positions, positions)):
            parts = zip(recorded.split(tape.sizes), starts, strict=True)
            chosen = [part for part, start in parts if start is not None]
            if not torch.equal(torch.cat(chosen), given):
                return None
        in_tail = order.in_tail.to(steps.device)
        ends = [
            None if start is None else int(in_tail[start + size - 1])
            for start, size in zip(starts, tape.sizes, strict=True)
        ]
        whole = Places(tape.sizes, tape.starts, starts, steps, order.length)
        tail = Places([1] * len(ends), tape.ends, ends, in_tail[steps], len(order.packed.tail))
        layers, tape.layers = tape.layers, []

        def notes(layer: int) -> Notes:
            parts, layers[layer] = layers[layer], []
            last = layer + 1 == len(layers)
            ordered: dict[str, Any] = {}
            for name, *fields in zip(Notes._fields, *parts, strict=True):
                places = tail if last and name != "keys_values" else whole
                ordered[name] = places.put(fields)
            return Notes(**ordered)

        return notes

    def _prompt_starts(self, order: Order) -> list[int | None] | None:
        """Where the recorded prompts go, None for one that is not in the order."""
        tape, wanted = self.tape, iter(zip(order.starts, order.sizes, strict=True))
        prompts, owners = tape.owners[self.rows].unique(return_inverse=True)
        chosen = set(prompts.tolist())
        if len(chosen) != len(order.sizes) or owners.tolist() != list(order.owners):
            return None
        starts: list[int | None] = []
        for prompt, size in enumerate(tape.sizes):
            start, expected = next(wanted) if prompt in chosen else (None, size)
            if size != expected:
                return None
            starts.append(start)
        return starts

    def _step_places(self, order: Order, ids: Tensor) -> Tensor | None:
        """Where the tokens that were fed go, those left out beyond the end; None if any token was
        not fed, or another was.
        """
        tape, device = self.tape, ids.device
        if not tape.rows:
            return None if any(order.lengths) else torch.zeros(0, dtype=torch.long, device=device)
        number = torch.full(tape.owners.shape, -1, device=device)
        number[self.rows] = torch.arange(len(self.rows), device=device)
        row = number[torch.cat(tape.rows)]
        counts = torch.tensor([len(rows) for rows in tape.rows], device=device)
        step = torch.arange(len(counts), device=device).repeat_interleave(counts)
        lengths = torch.tensor(order.lengths, device=device)
        fed = (row >= 0) & (step < lengths[row])
        row, step = row[fed], step[fed]
        same = torch.equal(torch.cat(tape.tokens)[fed], ids[row, step])
        if not same or len(row) != sum(order.lengths):
            return None
        places = torch.full(fed.shape, order.length, device=device)
        places[fed] = order.predicts.to(device)[row, step + 1]
        return places


@dataclass(frozen=True)
class Places:
    """Where recorded tokens go in a pass of ``length`` tokens."""

    sizes: list[int]
    """Of the prompts."""
    recorded: list[int]
    """Where the prompts start in the notes."""
    starts: list[int | None]
    """Where they go; None for one that is left out."""
    steps: Tensor
    """Where the tokens fed in steps go; ``length`` for one that is left out."""
    length: int

    def put(self, parts: Sequence[Tensor | None]) -> Tensor | None:
        """Puts notes of prompts, and of steps, in their places: [length, ..]."""
        if any(part is None for part in parts):
            return None
        first, *rest = (part for part in parts if part is not None)
        out = first.new_empty(self.length + 1, *first.shape[1:])  # one more, for what is left out
        for size, source, start in zip(self.sizes, self.recorded, self.starts, strict=True):
            if start is not None:
                out[start : start + size] = first[source : source + size]
        if rest:
            out[self.steps] = torch.cat(rest)
        return out[: self.length]


def _versions(language_model: PreTrainedModel) -> list[int]:
    """Counts of the changes that were made to the weights in place."""
    return [weight._version for weight in language_model.parameters()]
