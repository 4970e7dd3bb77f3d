"""The cue term: does the reasoning name something seen and something heard?

R1-Omni's claim is that reasoning shows what each modality gave. This term pays for naming both; it
does not know whether what is named is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from omni_rlvr.text.parse import normalise_label, parse
from omni_rlvr.types import UserError

_SENTENCE = re.compile(r"[.!?;\n\u3002\uff01\uff1f\uff1b]+")
_WORD = re.compile(r"\w+(?:['\u2019-]\w+)*")


class CueCoverage:
    """1.0 where the think block names a cue of every kind in a sentence that says something.

    A cue counts if its words stand, whole and in order, in a sentence with at least
    ``min_other_words`` different words that are no cue. A completion without exactly one think
    block scores 0.0.

    Args:
        lexicon: Kind (``visual``, ``vocal``) -> its words or phrases, at least one each.
        min_other_words: 0 or more; with 0 a bare list of cue words scores 1.0.

    Raises:
        UserError: The lexicon has no kind or no words, or ``min_other_words`` is out of range.

    Note:
        What fools it: fluent sentences about things that are not in the clip, a cue that is only
        denied ("her face is not visible to me now"), the same two sentences for every clip. It is
        a measure of style. Keep its weight small, or 0 to log it only.
    """

    max_score = None  # annotated reasoning need not name any cue

    def __init__(self, lexicon: Mapping[str, Sequence[str]], min_other_words: int) -> None:
        if not isinstance(lexicon, Mapping) or not lexicon:
            raise UserError(f"cue reward, lexicon: {lexicon!r} names no kind of cue")
        if not isinstance(min_other_words, int) or min_other_words < 0:
            raise UserError(f"cue reward, min_other_words: {min_other_words!r} is not 0 or more")
        self._kinds = [_pattern(kind, cues) for kind, cues in lexicon.items()]
        self._min_other_words = min_other_words

    def __call__(self, completions: Sequence[str]) -> list[float]:
        """Score N completions, 1.0 or 0.0 each."""
        return [self._score(parse(text).think or "") for text in completions]

    def _score(self, think: str) -> float:
        named: set[int] = set()
        for sentence in _SENTENCE.split(normalise_label(think)):
            found = {i for i, cue in enumerate(self._kinds) if cue.search(sentence)}
            if found and self._says_something(sentence):
                named |= found
        return 1.0 if len(named) == len(self._kinds) else 0.0

    def _says_something(self, sentence: str) -> bool:
        for cue in self._kinds:
            sentence = cue.sub(" ", sentence)
        return len(set(_WORD.findall(sentence))) >= self._min_other_words


def _pattern(kind: str, cues: Sequence[str]) -> re.Pattern[str]:
    """Match any of the phrases as whole words, whatever the white space between them."""
    if isinstance(cues, str) or not cues or not all(isinstance(c, str) and c.split() for c in cues):
        raise UserError(f"cue reward, lexicon.{kind}: {cues!r} is no list of words; quote them")
    phrases = sorted(
        (r"\s+".join(map(re.escape, normalise_label(c).split())) for c in cues), key=len
    )
    return re.compile(rf"(?<!\w)(?:{'|'.join(reversed(phrases))})(?!\w)")
