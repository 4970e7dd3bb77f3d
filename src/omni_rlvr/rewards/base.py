"""What a reward term is: strings and gold answers in, one score a completion out.

A term knows nothing of weights, groups or tensors; ``mixture`` adds terms up. A class with these
two members is a term: name it as ``_target_`` under ``reward.terms`` and give it a weight under
``reward.weights``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from omni_rlvr.types import Example, UserError


class RewardError(UserError):
    """A term failed on a completion; the message names the term, the example and the completion."""


class Term(Protocol):
    """Scores completions against the examples they answer."""

    max_score: float
    """The most one completion can earn: 1.0 for every term of this package. The least is 0."""

    def __call__(
        self, completions: Sequence[str], examples: Sequence[Example]
    ) -> Sequence[float | None]:
        """Score each completion.

        Args:
            completions: N decoded completions without special tokens.
            examples: The N examples they answer, row by row.

        Returns:
            N finite scores from 0 to ``max_score``; None where a completion cannot be judged, which
            is not 0: the term is then left out of that row's reward. Raise when something is wrong:
            it stops the run.
        """
        ...
