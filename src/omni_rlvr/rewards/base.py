"""What a reward term is: strings and gold answers in, one score a completion out.

A term knows nothing of weights, groups or tensors; ``mixture`` adds terms up. Any callable that
takes some of the arguments below by their names is a term: name it as ``_target_`` under
``reward.terms`` (a function with ``_partial_: true``) and give it a weight under
``reward.weights``. ``callables`` says what else is understood: one row at a time, and async.
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
    """Make an error of ``sys.exit`` in a term, which would end the run as if it were stopped."""
    try:
        yield
    except SystemExit as end:
        raise CalledExit from end


class Term(Protocol):
    """Scores completions against the examples they answer.

    A class may say ``max_score``, the most one completion can earn: then gold answers are checked
    to earn it before training. A penalty's is 0. Without it gold answers may earn anything.
    """

    def __call__(
        self, completions: Sequence[str], examples: Sequence[Example], lengths: Sequence[int]
    ) -> Sequence[float | None]:
        """Score each completion.

        Args:
            completions: N decoded completions without special tokens.
            examples: The N examples they answer, row by row; may be left out of the signature.
            lengths: Their N lengths in tokens, the end token included; may be left out.

        Returns:
            N finite scores; None where a completion cannot be judged, which is not 0: the term is
            then left out of that row's reward. Raise when something is wrong: it stops the run.
        """
        ...
