"""The protocol of a reward term: completions and gold answers in, one score per completion out.

A term knows nothing of weights, groups or tensors; ``mixture`` adds terms up. Any callable that
takes some of the arguments below by their names is a term: name it as ``_target_`` under
``reward.terms`` (a function with ``_partial_: true``) and give it a weight under
``reward.weights``. A term may also score one row at a time, or be async; see ``callables``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from omni_rlvr.types import Example, UserError


class RewardError(UserError):
    """A term failed on a completion; the message names the term, the example and the completion."""


class RewardTimeout(RewardError):
    """A term did not return in time."""


class CalledExit(Exception):
    """A term called ``sys.exit``; its cause says where."""


@contextlib.contextmanager
def exit_as_error() -> Iterator[None]:
    """Turn ``sys.exit`` in a term into an error; else the run would end as if a user stopped it."""
    try:
        yield
    except SystemExit as end:
        raise CalledExit from end


class Term(Protocol):
    """Scores completions against the examples they answer.

    A class may define ``max_score``, the most that one completion can earn. Gold answers are then
    checked to earn it before training. That of a penalty is 0. Without it any score is accepted.
    """

    def __call__(
        self, completions: Sequence[str], examples: Sequence[Example], lengths: Sequence[int]
    ) -> Sequence[float | None]:
        """Score each completion.

        Args:
            completions: N completions, decoded up to their end token; other special tokens stay.
            examples: The N examples they answer, row by row; may be left out of the signature.
            lengths: Their N lengths in tokens, the end token included; may be left out.

        Returns:
            N finite scores, or None where a completion cannot be judged: the term is then left out
            of that row's reward, which differs from a score of 0. An error stops the run.
        """
        ...
