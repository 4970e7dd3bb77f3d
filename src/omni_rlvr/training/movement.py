"""Check whether a run has changed its weights: a run that learned nothing must fail.

The trainable weights are fingerprinted when the run begins, and compared when it ends. A run whose
rewards gave no gradient is told apart from one whose updates were too small to change a weight.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from omni_rlvr.distributed import gather
from omni_rlvr.models.sharding import own_part

log = logging.getLogger(__name__)

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a number -> the integer type of that size."""


def fingerprint(weights: Iterable[Tensor]) -> list[int]:
    """Sum the bits of each weight, read as integers.

    A sum of floats could hide a small change in its rounding error. All sums go to the CPU in one
    copy. Of sharded weights, this rank's shard is read.
    """
    parts = [own_part(weight.detach()) for weight in weights]
    sums = [part.view(_BITS[part.element_size()]).sum() for part in parts]
    return torch.stack(sums).tolist() if sums else []


class Movement:
    """Track whether a run changes its trainable weights."""

    def __init__(self, weights: Iterable[Tensor]):
        """Fingerprint the trainable weights as the run, or this part of it, finds them."""
        self.weights = list(weights)
        self._start = fingerprint(self.weights)
        self.moved_before = False
        """Whether the weights have moved, in an earlier part of the run or in this one."""
        self.num_updates = 0
        self.had_a_reason = False
        """Whether any step had targets, or rewards that differ within a group."""
        self.largest = {"learning_rate": 0.0, "grad_norm": 0.0}

    def note(self, metrics: Mapping[str, float], update: Mapping[str, float]) -> None:
        """Note an update that was made, and the metrics of its step."""
        self.num_updates += 1
        self.had_a_reason |= metrics.get("frac_reward_zero_std", 0.0) < 1
        self.largest = {name: max(value, update[name]) for name, value in self.largest.items()}

    @property
    def has_moved(self) -> bool:
        """Whether any weight differs from its value at the start; every rank must call it."""
        if not self.moved_before:
            self.moved_before = any(gather(fingerprint(self.weights) != self._start))
        return self.moved_before

    def why_not(self) -> str | None:
        """Say why no weight has moved; None if one has, or if the rewards gave no gradient."""
        if self.has_moved or not self.had_a_reason:
            return None
        if self.largest["grad_norm"] == 0:
            return (
                "the gradient was 0 in all of them: the loss of these clips does not depend on the "
                "trained weights (model.trainable), or it counts none of their tokens (see "
                "completions/clipped_ratio under stage.mask_truncated_completions)"
            )
        dtypes = ", ".join(sorted({str(w.dtype).removeprefix("torch.") for w in self.weights}))
        return (
            f"the largest learning rate was {self.largest['learning_rate']:g} and the largest "
            f"gradient norm {self.largest['grad_norm']:.3g}: too small for a {dtypes} weight; "
            "raise optimizer.lr, or train in model.dtype=float32"
        )

    def warn(self) -> None:
        """Warn if the rewards gave no gradient in the whole run."""
        if self.num_updates and not self.had_a_reason and not self.has_moved:
            log.warning(
                "nothing was learned: in all %d updates the rewards within every group were equal "
                "(reward_std_within_group 0), so that every advantage is 0; look at "
                "completions.jsonl, and at stage.sampling.temperature",
                self.num_updates,
            )
