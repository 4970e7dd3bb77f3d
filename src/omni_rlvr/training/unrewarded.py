"""Warns where a reward that could be earned is never earned: the policy cannot learn from it."""

from __future__ import annotations

import logging

from pytorch_lightning import Callback, Trainer

from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.training.module import RLVRModule

log = logging.getLogger(__name__)

NUM_STEPS = 20
"""Steps without any reward of a term, after which it is warned of."""
ADVICE = {"format": "; a cold start (stage=sft) on reasoning teaches the format"}


class Unrewarded(Callback):
    """Warns once of each term of which no completion of the first steps earned anything."""

    def __init__(self, reward: Mixture):
        """Watch the terms that count and that a right answer earns something of."""
        self.waiting = {
            name
            for name, term in reward.terms.items()
            if reward.weights[name] > 0 and term.max_score is not None and term.max_score > 0
        }
        self.num_steps = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: RLVRModule, outputs, batch, batch_idx: int
    ) -> None:
        """Look at the step's completions until every term was earned or warned of."""
        rows = pl_module.completions
        if not self.waiting or not rows:
            return
        self.num_steps += 1
        earned = {name for name in self.waiting for row in rows if _score(row, name) > 0}
        self.waiting -= earned
        if self.num_steps < NUM_STEPS:
            return
        for name in sorted(self.waiting):
            log.warning(
                "no completion earned any %s reward in %d steps: a group whose completions all "
                "earn the same teaches nothing; look at completions.jsonl and at model.path%s",
                name,
                NUM_STEPS,
                ADVICE.get(name, ""),
            )
        self.waiting = set()


def _score(row: dict[str, object], term: str) -> float:
    """Return the row's score of a term; NaN, which exceeds nothing, where it was not judged."""
    score = row[f"rewards/{term}"]
    assert isinstance(score, float)
    return score
