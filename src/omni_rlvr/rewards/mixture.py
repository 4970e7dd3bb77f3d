"""The reward of a completion: the weighted sum of its terms.

It checks what terms and weights it is given once, and what the terms return at every call. A term
that raises, or returns what is not a finite score, stops the run: a silent 0 would be trained on.
It computes no advantages.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import NoReturn

import torch
from torch import Tensor

from omni_rlvr.rewards.base import RewardError, Term
from omni_rlvr.types import Example, RewardOutput, UserError

_FLOAT32_MAX = torch.finfo(torch.float32).max
_SHOWN_CHARACTERS = 2000


class Mixture:
    """Weighted sum of reward terms: ``reward = sum_k weight_k * score_k``.

    A term of weight 0 is a metric: scored and logged, never part of the reward. A term that returns
    None for a row is NaN there and left out of that row's sum; the row's reward is NaN only if
    every term of non-zero weight is. Where no weight is non-zero, every reward is 0.

    Args:
        terms: Name -> term; the names are those of the logged metrics.
        weights: Name -> finite weight, one for each term, negative for a penalty.

    Raises:
        UserError: Names disagree, a weight is not a finite number, or something is not a term.
    """

    def __init__(self, terms: Mapping[str, Term], weights: Mapping[str, float]) -> None:
        for key, value in (("terms", terms), ("weights", weights)):
            if not isinstance(value, Mapping) or not value:
                raise UserError(f"reward.{key} is {value!r}; name at least one term")
        self.terms: dict[str, Term] = dict(terms)
        self.weights: dict[str, float] = _checked_weights(weights, list(self.terms))
        for name, term in self.terms.items():
            _check_term(name, term)

    @property
    def max_reward(self) -> float:
        """The most a completion can earn: each positive weight times its term's ``max_score``."""
        return sum(
            max(self.weights[name], 0.0) * term.max_score for name, term in self.terms.items()
        )

    def __call__(self, completions: Sequence[str], examples: Sequence[Example]) -> RewardOutput:
        """Score N completions with every term and add up.

        Args:
            completions: N decoded completions.
            examples: The N examples they answer, row by row.

        Returns:
            Rewards and each term's unweighted scores, [N] float32 on the CPU.

        Raises:
            RewardError: A term raised, or returned a wrong number of scores or one that is not
                finite.
        """
        if len(completions) != len(examples):
            raise ValueError(f"{len(completions)} completions for {len(examples)} examples")
        scores = {
            name: _score(name, term, completions, examples) for name, term in self.terms.items()
        }
        return RewardOutput(rewards=self._add_up(scores, len(completions)), terms=scores)

    def _add_up(self, scores: Mapping[str, Tensor], num_rows: int) -> Tensor:
        counted = {name: weight for name, weight in self.weights.items() if weight != 0}
        rewards = torch.zeros(num_rows, dtype=torch.float32)
        judged = torch.full((num_rows,), not counted)
        for name, weight in counted.items():
            present = ~scores[name].isnan()
            rewards = torch.where(present, rewards + weight * scores[name], rewards)
            judged = judged | present
        return torch.where(judged, rewards, torch.nan)


def _checked_weights(weights: Mapping[str, object], names: Sequence[str]) -> dict[str, float]:
    checked: dict[str, float] = {}
    for name, weight in weights.items():
        if name not in names:
            known = ", ".join(names)
            raise UserError(f"reward.weights.{name}: no such term; reward.terms has {known}")
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise UserError(f"reward.weights.{name}: {weight!r} is not a number")
        if not abs(weight) <= _FLOAT32_MAX:
            raise UserError(f"reward.weights.{name}: {weight!r} is not a finite number")
        checked[name] = float(weight)
    for name in names:
        if name not in checked:
            raise UserError(
                f"reward.weights.{name} is missing; every term needs a weight, 0 for a metric"
            )
    return {name: checked[name] for name in names}  # in the order of the terms


def _check_term(name: str, term: Term) -> None:
    if not callable(term) or not hasattr(term, "max_score"):
        raise UserError(
            f"reward.terms.{name}: {type(term).__name__} is not a reward term; it needs a method "
            "__call__(completions, examples) and an attribute max_score"
        )
    if not isinstance(term.max_score, Real) or not math.isfinite(term.max_score):
        raise UserError(f"reward.terms.{name}: max_score {term.max_score!r} is not a finite number")


def _score(
    name: str, term: Term, completions: Sequence[str], examples: Sequence[Example]
) -> Tensor:
    """One term's [N] float32 scores, NaN for None."""
    try:
        scores = term(completions, examples)
    except Exception as error:
        _raise_for_row(name, term, completions, examples, error)
    if not isinstance(scores, Sequence) or isinstance(scores, str):
        wrong = f"returned {type(scores).__name__}, not a list of scores"
        raise RewardError(_batch_message(name, wrong, completions, examples))
    if len(scores) != len(completions):
        wrong = f"returned {len(scores)} scores for {len(completions)} completions"
        raise RewardError(_batch_message(name, wrong, completions, examples))
    for score, completion, example in zip(scores, completions, examples, strict=True):
        if score is None or (isinstance(score, Real) and abs(score) <= _FLOAT32_MAX):
            continue
        wrong = f"returned {score!r}, which is neither a finite number nor None"
        raise RewardError(_row_message(name, wrong, completion, example))
    values = [math.nan if score is None else float(score) for score in scores]
    return torch.tensor(values, dtype=torch.float32)


def _raise_for_row(
    name: str,
    term: Term,
    completions: Sequence[str],
    examples: Sequence[Example],
    error: Exception,
) -> NoReturn:
    """Score row by row to find the one that made the term raise, and name it."""
    for completion, example in zip(completions, examples, strict=True):
        try:
            term([completion], [example])
        except Exception as alone:
            message = _row_message(name, f"raised {_describe(alone)}", completion, example)
            raise RewardError(message) from alone
    wrong = f"raised {_describe(error)} on the batch, though on none of its rows alone"
    raise RewardError(_batch_message(name, wrong, completions, examples)) from error


def _describe(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"


def _row_message(name: str, wrong: str, completion: str, example: Example) -> str:
    shown = repr(completion[:_SHOWN_CHARACTERS])
    if len(completion) > _SHOWN_CHARACTERS:
        shown += f"... ({len(completion)} characters)"
    return (
        f"reward term {name} {wrong}\n"
        f"  example: {example.id} ({example.source})\n"
        f"  completion: {shown}"
    )


def _batch_message(
    name: str, wrong: str, completions: Sequence[str], examples: Sequence[Example]
) -> str:
    if not completions:
        return f"reward term {name} {wrong}"
    wrong = f"{wrong}; the batch of {len(completions)} begins with"
    return _row_message(name, wrong, completions[0], examples[0])
