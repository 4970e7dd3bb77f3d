"""The global batch of a step, of which each rank has a part: its counts, rewards and order.

Advantages and losses are normalised over the batch of all ranks, so that the number of devices
changes neither. Only a few numbers a row are gathered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from omni_rlvr import distributed
from omni_rlvr.functional.masks import lengths
from omni_rlvr.types import Batch, Counts, Experience, RewardOutput, Rollout


@dataclass(frozen=True)
class GlobalRollout:
    """The completions of all ranks, in the order of a run on one device."""

    scored: RewardOutput
    size: Tensor
    """[N] lengths in tokens."""
    truncated: Tensor
    """[N] bool."""
    penalty: Tensor | None
    """[N] the KL to subtract from the rewards, or None."""
    own: Tensor
    """[n] int64: the indices of this rank's rows among the N."""


def with_counts(experience: Experience, own: Counts) -> Experience:
    """Add the counts that losses are divided by, summed over ranks.

    Args:
        experience: this rank's part of a minibatch.
        own: the counts of that part.
    """
    return replace(experience, counts=Counts(*distributed.total(list(vars(own).values()))))


def own_prompts(batch: Batch) -> tuple[Tensor, int]:
    """Find a rank's prompts among those of all ranks.

    Skipped clips are not counted.

    Returns:
        [B] int64, the index of each prompt; and how many prompts all ranks have together.
    """
    places = places_of(batch)
    order = {place: i for i, place in enumerate(distributed.in_order(places, places))}
    return torch.tensor([order[place] for place in places], dtype=torch.long), len(order)


def places_of(batch: Batch) -> Sequence[int]:
    """Return the places of a rank's prompts in the step's batch, which counts skipped clips."""
    return batch.places or range(len(batch))


def gather_rollout(
    batch: Batch, rollout: Rollout, scored: RewardOutput, penalty: Tensor | None
) -> GlobalRollout:
    """Gather the rewards and lengths of all ranks.

    Args:
        batch: this rank's B prompts.
        rollout: the n = B*G completions of these prompts.
        scored: the rewards of these completions, on the CPU.
        penalty: [n] the KL to subtract from the rewards, on the CPU, or None.
    """
    columns = [
        scored.rewards,
        lengths(rollout.completion_mask.cpu()),
        rollout.truncated.cpu(),
        *scored.terms.values(),
        *([] if penalty is None else [penalty]),
    ]
    own, num_prompts = own_prompts(batch)
    groups = [column.view(len(batch), -1) if len(batch) else column for column in columns]
    rows = [[group[i] for group in groups] for i in range(len(batch))]
    ordered = distributed.in_order(rows, places_of(batch))
    gathered = [torch.cat(column) for column in zip(*ordered, strict=True)]
    numbers = torch.arange(len(gathered[0])).view(num_prompts, -1)
    rewards, size, truncated, *rest = gathered
    return GlobalRollout(
        RewardOutput(rewards, dict(zip(scored.terms, rest, strict=False))),
        size=size,
        truncated=truncated,
        penalty=None if penalty is None else rest[-1],
        own=numbers[own].flatten(),
    )
