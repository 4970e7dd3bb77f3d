"""The repetition term: a penalty for repeated n-grams of words.

It counts words and not tokens, so that it means the same for every tokenizer. A word is a run of
letters and digits, a tag, or a single other sign. Text without spaces (Chinese, Japanese, or one
endless word) is counted by its characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from omni_rlvr.types import UserError

_WORD = re.compile(r"</?(?:think|answer)>|\w+|[^\w\s]")
_NO_SPACES = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_LONGEST_WORD = 30


class Repetition:
    """From 0.0 (every n-gram once) down to ``max_penalty`` (one n-gram over and over).

    R = max_penalty (1 - different n-grams / n-grams)

    Args:
        ngram_size: n, words; at least 1.
        max_penalty: 0 or less.

    Raises:
        UserError: A value is out of range.

    Reference:
        "Demystifying Long Chain-of-Thought Reasoning", app. C.2, arXiv 2502.03373.

    Note:
        Any long text repeats some n-grams, so that good reasoning scores a little below 0. Saying
        the same in other words costs nothing.
    """

    max_score = 0.0

    def __init__(self, ngram_size: int, max_penalty: float) -> None:
        if not isinstance(ngram_size, int) or ngram_size < 1:
            raise UserError(f"repetition reward, ngram_size: {ngram_size!r} is not 1 or more")
        if not isinstance(max_penalty, int | float) or not -1e6 <= max_penalty <= 0:
            raise UserError(f"repetition reward, max_penalty: {max_penalty!r} is not 0 or less")
        self._size, self._penalty = ngram_size, max_penalty

    def __call__(self, completions: Sequence[str]) -> list[float]:
        """Score N completions, ``max_penalty`` to 0.0 each."""
        return [self._score(list(words(text))) for text in completions]

    def _score(self, spoken: Sequence[str]) -> float:
        num = len(spoken) - self._size + 1
        if num < 1:
            return 0.0
        different = {tuple(spoken[i : i + self._size]) for i in range(num)}
        return self._penalty * (1 - len(different) / num)


def words(text: str) -> Iterator[str]:
    """Split a text into words, signs, and characters of scripts without spaces."""
    for word in _WORD.findall(text.casefold()):
        if len(word) > _LONGEST_WORD or _NO_SPACES.search(word):
            yield from word
        else:
            yield word
