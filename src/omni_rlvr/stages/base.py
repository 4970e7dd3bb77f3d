"""What the training loop asks of a stage: experience from a batch, its minibatches, the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from omni_rlvr.models.policy import Policy
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.rollout.next_token import Generators
from omni_rlvr.rollout.shared_prefix import RollOut
from omni_rlvr.types import Batch, Experience, Features, LossOutput


@dataclass(frozen=True)
class Given:
    """What a stage may be built with, besides its config."""

    reward: Mixture | None
    """Scores completions; None for a stage that does not sample."""
    reference: Policy | None
    """The frozen policy that training starts from; None for a stage that needs none."""
    roll_out: RollOut | None
    """Samples completions; None for a stage that does not sample."""


@dataclass(frozen=True)
class Prepared:
    """What ``prepare`` hands to the loop."""

    experience: Experience
    features: Features
    """The towers' outputs for the batch as it came, for a feature cache."""
    metrics: Mapping[str, float]
    """To log, under TRL's names; of all ranks together."""
    completions: list[dict[str, object]]
    """Rows for completions.jsonl, of this rank; empty for SFT."""
    not_finite: Mapping[str, int]
    """What is NaN or infinite before any loss -> in how many rows of this rank."""


class Stage(Protocol):
    """SFT or GRPO."""

    with_target: bool
    """Whether batches carry the annotated target."""

    def prepare(self, policy: Policy, batch: Batch, generator: Generators) -> Prepared:
        """Makes experience from a rank's batch, without gradient; runs the towers, once a prompt.

        Every rank calls it at every step, also one whose clips were all skipped.
        """

    def minibatches(self, experience: Experience) -> Iterator[Experience]:
        """Yields a rank's part of what each optimiser step learns from, in order."""

    def micro_batches(self, whole: Experience) -> list[Tensor]:
        """Splits a minibatch into row numbers for one backward pass each; rows that could teach
        nothing are left out.
        """

    def loss(self, policy: Policy, rows: Experience, whole: Experience) -> LossOutput:
        """Computes the share of a micro-batch ``rows`` in the loss of its minibatch ``whole``."""


def share(values: Tensor, mask: Tensor, num_tokens: float | Tensor) -> Tensor:
    """Computes a micro-batch's share of a token mean.

    share = sum over its tokens / tokens of the whole minibatch
    """
    return (values * mask).sum().detach() / num_tokens


def add_up(sums: dict[str, float], shares: Mapping[str, float | Tensor]) -> None:
    """Takes shares of a minibatch's metrics into ``sums``, as ``LossOutput`` says: least and most
    by name, the rest by sum. They are those of a micro-batch, or of a rank.
    """
    for name, share_ in shares.items():
        value = float(share_)
        if name not in sums:
            sums[name] = value
        elif name.endswith(("_min", "_max")):
            sums[name] = (min if name.endswith("_min") else max)(sums[name], value)
        else:
            sums[name] += value
