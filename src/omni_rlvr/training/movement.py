"""Whether a run taught its policy anything: nothing learned is no success.

The weights that train are fingerprinted when the run begins and compared when it ends. A run whose
rewards gave it no reason to move is told apart from one that could not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of a number -> the integers that its bits are."""


def fingerprint(weights: Iterable[Tensor]) -> list[int]:
    """Add up the bits of each weight, so that any change of one shows; they meet the CPU once."""
    sums = [weight.detach().view(_BITS[weight.element_size()]).sum() for weight in weights]
    return torch.stack(sums).tolist() if sums else []


class Movement:
    """What a run has done to the weights that train."""

    def __init__(self, weights: Iterable[Tensor]):
        """Args: those that train, as the run (or this part of it) finds them."""
        self.weights = list(weights)
        self._start = fingerprint(self.weights)
        self.moved_before = False
        """Whether an earlier part of the run has moved them, or this one is known to have."""
        self.num_updates = 0
        self.had_a_reason = False
        """Whether any step had something to learn from: targets, or rewards that differ."""
        self.largest = {"learning_rate": 0.0, "grad_norm": 0.0}

    def note(self, metrics: Mapping[str, float], update: Mapping[str, float]) -> None:
        """Take in an update that was made, and the metrics of its step."""
        self.num_updates += 1
        self.had_a_reason |= metrics.get("frac_reward_zero_std", 0.0) < 1
        self.largest = {name: max(value, update[name]) for name, value in self.largest.items()}

    @property
    def has_moved(self) -> bool:
        """Whether any weight is another than at the start."""
        self.moved_before = self.moved_before or fingerprint(self.weights) != self._start
        return self.moved_before

    def why_not(self) -> str | None:
        """Say why no weight has moved; None if one has, or if rewards gave no reason to."""
        if self.has_moved or not self.had_a_reason:
            return None
        if self.largest["grad_norm"] == 0:
            return (
                "the gradient was 0 in all of them: what trains (model.trainable) has no part in "
                "the loss of these clips, or the loss counts none of their tokens (see "
                "completions/clipped_ratio under stage.mask_truncated_completions)"
            )
        dtypes = ", ".join(sorted({str(w.dtype).removeprefix("torch.") for w in self.weights}))
        return (
            f"the largest learning rate was {self.largest['learning_rate']:g} and the largest "
            f"gradient norm {self.largest['grad_norm']:.3g}: too small for a {dtypes} weight; "
            "raise optimizer.lr, or train in model.dtype=float32"
        )

    def warn(self) -> None:
        """Say so where rewards gave no reason to move in the whole run."""
        if self.num_updates and not self.had_a_reason and not self.has_moved:
            log.warning(
                "nothing was learned: in all %d updates the rewards within every group were equal "
                "(reward_std_within_group 0), so that every advantage is 0; look at "
                "completions.jsonl, and at stage.sampling.temperature",
                self.num_updates,
            )
