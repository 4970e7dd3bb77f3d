"""Terms of the length of a completion in tokens: a soft overlong penalty, a cosine schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

from omni_rlvr.rewards.base import Term
from omni_rlvr.rewards.callables import Rows, as_reward_callable
from omni_rlvr.types import Example, UserError


class SoftOverlong:
    """From 0.0 down to -1.0 over the last tokens before the limit.

    R = 0 if L <= L_max - L_cache, (L_max - L_cache - L) / L_cache up to L_max, else -1

    Args:
        max_completion_length: L_max, tokens.
        soft_punish_cache: L_cache, tokens: how far below L_max the penalty begins; 0 makes it a
            step.

    Raises:
        UserError: A length is out of range.

    Reference:
        DAPO eq. 13, arXiv 2503.14476.
    """

    max_score = 0.0

    def __init__(self, max_completion_length: int, soft_punish_cache: int) -> None:
        _check_length("soft overlong", max_completion_length)
        if not 0 <= soft_punish_cache <= max_completion_length:
            raise UserError(
                f"soft overlong reward, soft_punish_cache: {soft_punish_cache!r} is not from 0 to "
                f"max_completion_length={max_completion_length}"
            )
        self._limit, self._cache = max_completion_length, soft_punish_cache

    def __call__(self, completions: Sequence[str], lengths: Sequence[int]) -> list[float]:
        """Score N completions, -1.0 to 0.0 each."""
        return [self._score(length) for length in lengths]

    def _score(self, length: int) -> float:
        over = length - (self._limit - self._cache)
        if over <= 0:
            return 0.0
        return -1.0 if length > self._limit else -over / self._cache


class CosineLength:
    """A right answer earns more the shorter it is, a wrong one costs less the longer it is.

    R = v_long + (v_short - v_long) (1 + cos(pi min(L / L_max, 1))) / 2

    Args:
        correct: A term; a completion is right if it earns the ``max_score`` of this term.
        max_completion_length: L_max, tokens.
        min_value_wrong: R of a wrong, empty completion.
        max_value_wrong: R of a wrong completion of L_max tokens.
        min_value_correct: R of a right completion of L_max tokens.
        max_value_correct: R of a right, empty completion.

    Raises:
        UserError: Values are not in order, or ``correct`` has no ``max_score``.

    Reference:
        "Demystifying Long Chain-of-Thought Reasoning", app. C.1, arXiv 2502.03373; names as in TRL.
    """

    def __init__(
        self,
        correct: Term,
        max_completion_length: int,
        *,
        min_value_wrong: float,
        max_value_wrong: float,
        min_value_correct: float,
        max_value_correct: float,
    ) -> None:
        _check_length("cosine length", max_completion_length)
        if not min_value_wrong <= max_value_wrong <= min_value_correct <= max_value_correct:
            raise UserError(
                "cosine length reward: min_value_wrong <= max_value_wrong <= min_value_correct <= "
                f"max_value_correct does not hold for {min_value_wrong}, {max_value_wrong}, "
                f"{min_value_correct}, {max_value_correct}"
            )
        self._correct = as_reward_callable("cosine_length.correct", correct)
        if self._correct.max_score is None or self._correct.is_async:
            raise UserError(
                "cosine length reward, correct: it needs a term that has a max_score and is not "
                "async"
            )
        self._limit = max_completion_length
        self._wrong = (min_value_wrong, max_value_wrong)
        self._right = (max_value_correct, min_value_correct)
        self.max_score = max_value_correct

    def __call__(
        self, completions: Sequence[str], examples: Sequence[Example], lengths: Sequence[int]
    ) -> list[float | None]:
        """Score N completions, None where ``correct`` gives none."""
        earned = self._correct.score(Rows(completions, examples, lengths))
        return [self._score(s, n) for s, n in zip(earned, lengths, strict=True)]

    def _score(self, score: float, length: int) -> float | None:
        if math.isnan(score):
            return None
        short, long = self._right if score == self._correct.max_score else self._wrong
        progress = min(length / self._limit, 1.0)  # above 1 the cosine would rise again
        return long + (short - long) * (1 + math.cos(math.pi * progress)) / 2


def _check_length(reward: str, length: int) -> None:
    if not isinstance(length, int) or length < 1:
        raise UserError(f"{reward} reward, max_completion_length: {length!r} is not 1 or more")
