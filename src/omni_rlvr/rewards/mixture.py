"""The reward of a completion: the weighted sum of its terms.

It checks the terms and weights once; ``callables`` checks at every call what the terms return.
It computes no advantages: whether terms are summed and then normalised, or the other way round
(GDPO), is the stage's ``multi_objective_aggregation``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from omni_rlvr.rewards.callables import (
    FLOAT32_MAX,
    RewardCallable,
    Rows,
    as_reward_callable,
    score_all,
)
from omni_rlvr.rewards.watchdog.time_limit import DEFAULT_S, checked_limit
from omni_rlvr.types import Example, RewardOutput, UserError


class Mixture:
    """Weighted sum of reward terms: ``reward = sum_k weight_k * score_k``.

    A term of weight 0 is a metric: scored and logged, never part of the reward. A term that returns
    None for a row is NaN there and left out of that row's sum; the row's reward is NaN only if
    every term of non-zero weight is. If all weights are 0, every reward is 0. A sum that is too
    large for float32 is infinite, never NaN.

    Args:
        terms: Name -> term, see ``base``; the names are those of the logged metrics.
        weights: Name -> finite weight, one for each term, negative for a penalty.
        timeout_s: Seconds that a call of a term may take, be it for one row or for a batch; None
            for no limit. A call that takes longer is interrupted, which is an error.

    Raises:
        UserError: Names disagree, a weight is not a finite number, something is not a term, or
            ``timeout_s`` is not greater than 0.
    """

    def __init__(
        self,
        terms: Mapping[str, object],
        weights: Mapping[str, float],
        timeout_s: float | None = DEFAULT_S,
    ) -> None:
        limit_s = checked_limit(timeout_s)
        for key, value in (("terms", terms), ("weights", weights)):
            if not isinstance(value, Mapping) or not value:
                raise UserError(f"reward.{key} is {value!r}; name at least one term")
        self.weights: dict[str, float] = _checked_weights(weights, list(terms))
        self.terms: dict[str, RewardCallable] = {
            name: as_reward_callable(name, term, limit_s) for name, term in terms.items()
        }

    @property
    def max_reward(self) -> float:
        """The most a completion can earn: each positive weight times its term's ``max_score``.

        Terms that do not say how much they can give are left out.
        """
        return sum(
            max(self.weights[name], 0.0) * term.max_score
            for name, term in self.terms.items()
            if term.max_score is not None
        )

    def __call__(
        self,
        completions: Sequence[str],
        examples: Sequence[Example],
        lengths: Sequence[int] | None = None,
    ) -> RewardOutput:
        """Score N completions with every term and add up.

        Args:
            completions: N decoded completions.
            examples: The N examples they answer, row by row.
            lengths: Their N lengths in tokens, end token included; None if they are not known: a
                term that needs them then gives no score.

        Returns:
            Rewards and each term's unweighted scores, [N] float32 on the CPU.

        Raises:
            RewardError: A term raised, took too long, or returned a wrong number of scores or one
                that is not finite.
        """
        if len(completions) != len(examples):
            raise ValueError(f"{len(completions)} completions for {len(examples)} examples")
        if lengths is not None and len(lengths) != len(completions):
            raise ValueError(f"{len(completions)} completions with {len(lengths)} lengths")
        found = score_all(list(self.terms.values()), Rows(completions, examples, lengths))
        scores = {name: torch.tensor(part, dtype=torch.float32) for name, part in found.items()}
        return RewardOutput(rewards=self._add_up(scores, len(completions)), terms=scores)

    def _add_up(self, scores: Mapping[str, Tensor], num_rows: int) -> Tensor:
        counted = {name: weight for name, weight in self.weights.items() if weight != 0}
        # in float64, so that large scores of both signs add up; a sum beyond float32 is infinite,
        # and training leaves the step out
        rewards = torch.zeros(num_rows, dtype=torch.float64)
        judged = torch.full((num_rows,), not counted)
        for name, weight in counted.items():
            present = ~scores[name].isnan()
            rewards = torch.where(present, rewards + weight * scores[name].double(), rewards)
            judged = judged | present
        return torch.where(judged, rewards, torch.nan).float()


def _checked_weights(weights: Mapping[str, object], names: Sequence[str]) -> dict[str, float]:
    checked: dict[str, float] = {}
    for name, weight in weights.items():
        if name not in names:
            known = ", ".join(names)
            raise UserError(f"reward.weights.{name}: no such term; reward.terms has {known}")
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise UserError(f"reward.weights.{name}: {weight!r} is not a number")
        if not abs(weight) <= FLOAT32_MAX:
            raise UserError(f"reward.weights.{name}: {weight!r} is not a finite number")
        checked[name] = float(weight)
    for name in names:
        if name not in checked:
            raise UserError(
                f"reward.weights.{name} is missing; every term needs a weight, 0 for a metric"
            )
    return {name: checked[name] for name in names}  # in the order of the terms
