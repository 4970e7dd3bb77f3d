"""The whole of a step, of which a rank has a part: counts, rewards and the order of its prompts.

Whatever is normalised over a batch or a minibatch is normalised over all ranks', so that the number
of devices changes no advantage and no share of a loss. What is gathered is a few numbers a row.
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
class WholeRollout:
    """What all ranks sampled, in the order that one device would have it in."""

    scored: RewardOutput
    size: Tensor
    """[N] tokens."""
    truncated: Tensor
    """[N] bool."""
    penalty: Tensor | None
    """[N] what the KL takes off the rewards, or None."""
    own: Tensor
    """[n] int64: which of the N rows are this rank's."""


def with_counts(experience: Experience, own: Counts) -> Experience:
    """Adds what its shares are divided by: its own counts and those of the other ranks."""
    return replace(experience, counts=Counts(*distributed.total(list(vars(own).values()))))


def own_prompts(batch: Batch) -> tuple[Tensor, int]:
    """Numbers a rank's prompts among all that were read: [B] int64, and how many these are."""
    places = places_of(batch)
    order = {place: i for i, place in enumerate(distributed.in_order(places, places))}
    return torch.tensor([order[place] for place in places], dtype=torch.long), len(order)


def places_of(batch: Batch) -> Sequence[int]:
    """Where a rank's prompts stand in the step's batch."""
    return batch.places or range(len(batch))


def gather_rollout(
    batch: Batch, rollout: Rollout, scored: RewardOutput, penalty: Tensor | None
) -> WholeRollout:
    """Collects rewards and lengths of all ranks.

    Args:
        batch: this rank's B prompts.
        rollout: its n = B*G completions.
        scored: their rewards, on the CPU.
        penalty: [n] or None, on the CPU.
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
    whole = [torch.cat(column) for column in zip(*ordered, strict=True)]
    numbers = torch.arange(len(whole[0])).view(num_prompts, -1)
    rewards, size, truncated, *rest = whole
    return WholeRollout(
        RewardOutput(rewards, dict(zip(scored.terms, rest, strict=False))),
        size=size,
        truncated=truncated,
        penalty=None if penalty is None else rest[-1],
        own=numbers[own].flatten(),
    )
