"""The processes of a run on several devices: a rank each, and the few values they share.

Gradients are summed once an update, after the last micro-batch, and not by DistributedDataParallel:
its reducer fires in every backward pass and wants as many of them on every rank, each through every
weight. Here a rank may have other micro-batches than its neighbour, or none at all, and a loss is
written in shares of the whole minibatch, so that the sum is the gradient of a single device.

A run on one device is a run of one rank: each function then gives back what it is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")

BUCKET = 2**24
"""Numbers of a gradient that travel together: 64 MiB in float32."""


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def num_ranks() -> int:
    """How many processes do this run."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes, shows and saves."""
    return rank() == 0


def gather(value: T) -> list[T]:
    """Collects a small value of every rank, in their order; tensors must be on the CPU."""
    if num_ranks() == 1:
        return [value]
    values: list[T | None] = [None] * num_ranks()
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # all are there now


def total(values: Sequence[float]) -> list[float]:
    """Adds up numbers over ranks, place by place."""
    return [sum(column) for column in zip(*gather(values), strict=True)]


def in_order(rows: Sequence[T], places: Sequence[int]) -> list[T]:
    """Collects the rows of all ranks, ordered by their places in the whole."""
    found = [pair for part in gather(list(zip(places, rows, strict=True))) for pair in part]
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]


def sum_gradients(weights: Iterable[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """Replaces gradients by their sums over ranks.

    Args:
        weights: the same ones in the same order on every rank.

    Returns:
        Those that have a gradient on any rank; the rest keeps None, as on a single device.
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
    """Gives every rank the first one's weights."""
    if num_ranks() > 1:
        for weight in weights:
            distributed.broadcast(weight.detach(), src=0)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype, up to ``BUCKET`` numbers (or a single larger one)."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(g.numel() for g in bucket) + gradient.numel() > BUCKET
        if bucket and (full or bucket[0].dtype != gradient.dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket
