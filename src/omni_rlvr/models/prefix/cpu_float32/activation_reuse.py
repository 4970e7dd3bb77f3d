"""Keep the activations of a rollout, so that the update need not compute them again.

The first update with the weights that sampled processes the same tokens as the rollout. Its forward
pass only reorders the rollout's activations and builds the graph; up to rounding, the gradients are
those of an ordinary pass. The conditions are checked: the model, its weights, the prompts'
embeddings and positions, the prompt of each row, and the tokens must be those that were recorded.
Weights are compared by torch's count of in-place changes, which misses changes through
``weight.data``.

Memory: a layer's ``Activations`` for every token of the rollout, about what the update's forward
pass would keep for backward, from the rollout on and for all rows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from omni_rlvr.models.prefix.cpu_float32.layers import Activations
from omni_rlvr.models.prefix.packing import Order


class RolloutActivations:
    """The activations of one rollout's passes; they can be used once."""

    def __init__(
        self,
        language_model: PreTrainedModel,
        embeds: Tensor,
        positions: Tensor,
        order: Order,
        owners: Tensor,
    ):
        """Record the prompts; ``add`` and ``add_step`` record the passes.

        Args:
            language_model: The model that decodes.
            embeds: [S, hidden], the embeddings of the prompts' tokens, one prompt after the other.
            positions: [S], their positions.
            order: The order in which they are processed.
            owners: [N] int64, the prompt of each row.
        """
        self.language_model, self.versions = language_model, _versions(language_model)
        self.embeds, self.positions = embeds, positions
        self.sizes, self.owners = list(order.sizes), owners
        self.starts, self.ends = order.starts, order.ends.tolist()
        """The first index of each prompt in the activations; the index of each prompt's last token
        in the activations of the tail.
        """
        self.layers: list[list[Activations]] = [[] for _ in language_model.model.layers]
        """For each layer, the activations of the prompts, then those of each step."""
        self.rows: list[Tensor] = []
        """For each step, the numbers of the rows that were fed; ``tokens`` has their tokens."""
        self.tokens: list[Tensor] = []

    def add(self, made: list[Activations]) -> None:
        """Record one pass, layer by layer: the prompts' first, then each step's."""
        for layer, activations in zip(self.layers, made, strict=True):
            layer.append(activations)

    def add_step(self, rows: Tensor, tokens: Tensor, made: list[Activations]) -> None:
        """Record a step: [n] row numbers, the tokens fed to them, and the layers' activations."""
        self.rows.append(rows)
        self.tokens.append(tokens)
        self.add(made)

    def is_of(self, language_model: PreTrainedModel) -> bool:
        """Tell whether these are a model's activations at its current weights, and not yet used."""
        same = self.language_model is language_model and bool(self.layers)
        return same and self.versions == _versions(language_model)


@dataclass(frozen=True)
class ActivationReuse:
    """The activations of some rows of a rollout."""

    recorded: RolloutActivations
    rows: Tensor
    """[n] int64, row numbers of the rollout."""

    def select(self, rows: Tensor) -> ActivationReuse:
        """Take some of these rows, [m] int64."""
        return ActivationReuse(self.recorded, self.rows[rows])

    def by_layer(
        self,
        language_model: PreTrainedModel,
        embeds: Tensor,
        positions: Tensor,
        order: Order,
        ids: Tensor,
    ) -> Callable[[int], Activations] | None:
        """Put the layers' activations in the order of a packed row.

        Args:
            language_model: The model that will use them.
            embeds: [S, hidden], embeddings of these rows' prompts, in ascending order of prompts.
            positions: [S], their positions.
            order: The places of the prompts and of the rows' tokens.
            ids: [n, T], the rows' tokens.

        Returns:
            A function that gives layer i's activations, to be called once for 0, 1, ... in
            order; None if the recorded activations are of other inputs or weights.
        """
        recorded = self.recorded
        if not recorded.is_of(language_model):
            return None
        starts, steps = self._prompt_starts(order), self._step_places(order, ids)
        if starts is None or steps is None:
            return None
        for then, now in ((recorded.embeds, embeds), (recorded.positions, positions)):
            parts = zip(then.split(recorded.sizes), starts, strict=True)
            selected = [part for part, start in parts if start is not None]
            if not torch.equal(torch.cat(selected), now):
                return None
        in_tail = order.in_tail.to(steps.device)
        ends = [
            None if start is None else int(in_tail[start + size - 1])
            for start, size in zip(starts, recorded.sizes, strict=True)
        ]
        every = Places(recorded.sizes, recorded.starts, starts, steps, order.length)
        tail = Places([1] * len(ends), recorded.ends, ends, in_tail[steps], len(order.packed.tail))
        layers, recorded.layers = recorded.layers, []

        def ordered(layer: int) -> Activations:
            # free a layer's recorded parts once they are reordered: otherwise the activations of
            # the whole rollout would be in memory twice
            parts, layers[layer] = layers[layer], []
            last = layer + 1 == len(layers)
            fields: dict[str, Any] = {}
            for name, *values in zip(Activations._fields, *parts, strict=True):
                places = tail if last and name != "keys_values" else every
                fields[name] = places.put(values)
            return Activations(**fields)

        return ordered

    def _prompt_starts(self, order: Order) -> list[int | None] | None:
        """Return the new start of each recorded prompt (None: not used); None if they differ."""
        recorded, wanted = self.recorded, iter(zip(order.starts, order.sizes, strict=True))
        prompts, owners = recorded.owners[self.rows].unique(return_inverse=True)
        selected = set(prompts.tolist())
        if len(selected) != len(order.sizes) or owners.tolist() != list(order.owners):
            return None
        starts: list[int | None] = []
        for prompt, size in enumerate(recorded.sizes):
            start, expected = next(wanted) if prompt in selected else (None, size)
            if size != expected:
                return None
            starts.append(start)
        return starts

    def _step_places(self, order: Order, ids: Tensor) -> Tensor | None:
        """Find the new places of the tokens that were fed; those not used go beyond the end.

        Returns:
            [tokens fed] int64; None if a token was not fed, or another one was.
        """
        recorded, device = self.recorded, ids.device
        if not recorded.rows:
            return None if any(order.lengths) else torch.zeros(0, dtype=torch.long, device=device)
        number = torch.full(recorded.owners.shape, -1, device=device)
        number[self.rows] = torch.arange(len(self.rows), device=device)
        row = number[torch.cat(recorded.rows)]
        counts = torch.tensor([len(rows) for rows in recorded.rows], device=device)
        step = torch.arange(len(counts), device=device).repeat_interleave(counts)
        lengths = torch.tensor(order.lengths, device=device)
        fed = (row >= 0) & (step < lengths[row])
        row, step = row[fed], step[fed]
        same = torch.equal(torch.cat(recorded.tokens)[fed], ids[row, step])
        if not same or len(row) != sum(order.lengths):
            return None
        places = torch.full(fed.shape, order.length, device=device)
        places[fed] = order.predicts.to(device)[row, step + 1]
        return places


@dataclass(frozen=True)
class Places:
    """The places of recorded tokens in a pass of ``length`` tokens."""

    sizes: list[int]
    """Lengths of the prompts."""
    recorded: list[int]
    """First index of each prompt in the recorded activations."""
    starts: list[int | None]
    """First index of each prompt in the pass; None for one that is left out."""
    steps: Tensor
    """Index in the pass of each token fed in a step; ``length`` for one that is left out."""
    length: int

    def put(self, parts: Sequence[Tensor | None]) -> Tensor | None:
        """Reorder activations of the prompts and the steps: [length, ..]; None if any is None."""
        if any(part is None for part in parts):
            return None
        first, *rest = (part for part in parts if part is not None)
        out = first.new_empty(
            self.length + 1, *first.shape[1:]
        )  # one row more, for tokens that are left out
        for size, source, start in zip(self.sizes, self.recorded, self.starts, strict=True):
            if start is not None:
                out[start : start + size] = first[source : source + size]
        if rest:
            out[self.steps] = torch.cat(rest)
        return out[: self.length]


def _versions(language_model: PreTrainedModel) -> list[int]:
    """Return torch's count of in-place changes of each weight.

    Comparing the weights themselves would take a copy of the whole model. Autograd uses these
    counts for the same purpose, but has no public name for them.
    """
    return [weight._version for weight in language_model.parameters()]
