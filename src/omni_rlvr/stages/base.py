"""The protocol of a stage: experience from a batch, its minibatches, and the loss of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from omni_rlvr.models.policy import Policy
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.rollout.next_token import Generators
from omni_rlvr.types import Batch, Experience, Features, LossOutput


@dataclass(frozen=True)
class Given:
    """The objects that a stage is built with, besides its config."""

    reward: Mixture | None
    """Scores completions; None for a stage that does not sample."""
    reference: Policy | None
    """The frozen policy that training starts from; None for a stage that needs none."""
    engine: RolloutEngine
    """Samples completions."""


@dataclass(frozen=True)
class Prepared:
    """The result of ``prepare``."""

    experience: Experience
    features: Features
    """Tower outputs of the whole batch, before any modality is dropped, for a feature cache."""
    metrics: Mapping[str, float]
    """Metrics to log, of all ranks together, under TRL's names."""
    completions: list[dict[str, object]]
    """Rows of this rank for completions.jsonl; empty for SFT."""
    not_finite: Mapping[str, int]
    """Name of a value -> number of this rank's rows in which it is NaN or infinite."""


class Stage(Protocol):
    """SFT or GRPO."""

    with_target: bool
    """Whether batches contain the annotated target."""
    reference: Policy | None
    """The frozen policy that the stage compares with; the strategy shards it as the trained one."""

    def prepare(self, policy: Policy, batch: Batch, generator: Generators) -> Prepared:
        """Make experience from a rank's batch, without gradient; run the towers once per prompt.

        Every rank must call it at every step, even if all its clips were skipped: it contains
        collective operations.
        """

    def minibatches(self, experience: Experience) -> Iterator[Experience]:
        """Yield this rank's part of the minibatch of each optimiser step, in order."""

    def micro_batches(self, minibatch: Experience) -> list[Tensor]:
        """Split a minibatch into micro-batches, each a tensor of row indices.

        Rows whose gradient is zero are left out.
        """

    def loss(self, policy: Policy, rows: Experience, minibatch: Experience) -> LossOutput:
        """Compute the share of a micro-batch ``rows`` in the loss of its ``minibatch``."""


def share(values: Tensor, mask: Tensor, num_tokens: float | Tensor) -> Tensor:
    """Compute a micro-batch's share of a token mean over its minibatch.

    share = sum over the micro-batch's tokens / number of tokens in the minibatch, over all ranks
    """
    return (values * mask).sum().detach() / num_tokens


def add_up(sums: dict[str, float], shares: Mapping[str, float | Tensor]) -> None:
    """Add the metrics of a micro-batch, or of a rank, to those of its minibatch.

    Names that end in ``_min`` or ``_max`` keep the least or the greatest value. All others are
    shares, which are summed.

    Args:
        sums: the metrics so far; changed in place.
        shares: the metrics to add.
    """
    for name, share_ in shares.items():
        value = float(share_)
        if name not in sums:
            sums[name] = value
        elif name.endswith(("_min", "_max")):
            sums[name] = (min if name.endswith("_min") else max)(sums[name], value)
        else:
            sums[name] += value
