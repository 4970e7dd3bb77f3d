"""The mathematics term: is the answer equal to the gold one as mathematics?

It needs the ``math`` extra (math-verify), which is imported when the term is built and not before.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from omni_rlvr.text.parse import parse
from omni_rlvr.types import Example, UserError


def import_math_verify(wanted_by: str) -> Any:
    """Import math-verify.

    Args:
        wanted_by: Name of the term that needs it, for the message.

    Raises:
        UserError: It is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module("math_verify")
    except ImportError as error:
        raise UserError(
            f"{wanted_by}: math-verify cannot be imported ({error}); "
            "install it with pip install 'omni-rlvr[math]', or take another reward term"
        ) from error


class MathVerify:
    """1.0 where math-verify finds the answer equal to the gold answer, else 0.0.

    Only the text between the answer tags is read. The score is None if math-verify finds no
    mathematics in the gold answer.

    Args:
        timeout_s: Seconds that parsing, and comparing, may take each, at least 1; an answer that
            takes longer is wrong. The limit uses a signal, so it works only on the main thread.

    Note:
        math-verify ignores text that is no mathematics: ``'42'`` and ``42 sad`` are 42. ``Numeric``
        is strict.

    Raises:
        UserError: math-verify is not installed, or ``timeout_s`` is out of range.
    """

    max_score = 1.0

    def __init__(self, timeout_s: int) -> None:
        if not isinstance(timeout_s, int) or timeout_s < 1:
            raise UserError(f"math reward, timeout_s: {timeout_s!r} is not 1 or more whole seconds")
        self._library = import_math_verify("math reward")
        self._timeout_s = timeout_s

    def __call__(
        self, completions: Sequence[str], examples: Sequence[Example]
    ) -> list[float | None]:
        """Score N completions, 1.0 or 0.0 each, None where the gold answer is no mathematics."""
        rows = zip(completions, examples, strict=True)
        return [self._score(parse(text).answer, example.answer) for text, example in rows]

    def _score(self, answer: str | None, gold: str) -> float | None:
        wanted = self._read(gold)
        if not wanted:
            return None
        given = self._read(answer) if answer else []
        return float(self._library.verify(wanted, given, timeout_seconds=self._timeout_s))

    def _read(self, text: str) -> list:
        plain = (
            text if any(mark in text for mark in ("$", "\\(", "\\[", "\\boxed")) else f"${text}$"
        )
        return self._library.parse(plain, parsing_timeout=self._timeout_s)
