"""Communication between the processes (ranks) of a run on several devices: small values.

Weights and gradients are shared by ``training/parallel``. On one device there is one rank, and each
function returns its own input.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def rank() -> int:
    """Return the rank of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def local_rank() -> int:
    """Return the rank of this process among those of the run on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", rank())) if distributed.is_initialized() else 0


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
    """Collect the rows of all ranks, in the order of their places in the global batch."""
    found = [pair for part in gather(list(zip(places, rows, strict=True))) for pair in part]
    return [row for _, row in sorted(found, key=lambda pair: pair[0])]
