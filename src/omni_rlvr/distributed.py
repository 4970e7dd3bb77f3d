"""Communication between the processes (ranks) of a run on several devices.

Gradients are summed once for each update, after the last micro-batch. DistributedDataParallel is
not used, because it sums in every backward pass and needs the same number of passes, through all
weights, on every rank. Here ranks may have different numbers of micro-batches, or none. The loss of
a micro-batch is its share of the whole minibatch, so the sum over ranks is the gradient that a
single device would have.

On one device there is one rank, and each function returns its own input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")

BUCKET = 2**24
"""The number of gradient elements that are summed together: 64 MiB in float32."""


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def num_ranks() -> int:
    """Return the number of processes of this run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Tell whether this is the process that writes files and prints."""
    return rank() == 0


def gather(value: T) -> list[T]:
    """Collect a small value from every rank, in rank order; tensors must be on the CPU."""
    if num_ranks() == 1:
        return [value]
    values: list[T | None] = [None] * num_ranks()
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # every rank has filled its entry


def total(values: Sequence[float]) -> list[float]:
    """Add up numbers over ranks, element by element."""
    return [sum(column) for column in zip(*gather(values), strict=True)]


def in_order(rows: Sequence[T], places: Sequence[int]) -> list[T]:
    """Collect the rows of all ranks, in the order of their places in the whole batch."""
    found = [pair for part in gather(list(zip(places, rows, strict=True))) for pair in part]
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def sum_gradients(weights: Iterable[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """Replace gradients by their sums over ranks.

    Args:
        weights: The same weights in the same order on every rank.

    Returns:
        The weights with a gradient on any rank; the others keep None, as on a single device.
    """
    weights = list(weights)
    marks = gather([weight.grad is not None for weight in weights])
    used = [weight for weight, *seen in zip(weights, *marks, strict=True) if any(seen)]
    if num_ranks() > 1:
        for weight in used:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        for bucket in _buckets([weight.grad for weight in used if weight.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            distributed.all_reduce(flat)
            for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))
    return used


def start_equal(weights: Iterable[Tensor]) -> None:
    """Copy the weights of the first rank to all ranks."""
    if num_ranks() > 1:
        for weight in weights:
            distributed.broadcast(weight.detach(), src=0)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Group neighbouring gradients of one dtype, at most ``BUCKET`` elements in a group.

    A larger gradient is a group of its own.
    """
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(g.numel() for g in bucket) + gradient.numel() > BUCKET
        if bucket and (full or bucket[0].dtype != gradient.dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
