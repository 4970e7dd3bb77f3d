"""Counting words of a lexicon, by hand; lists that cannot be meant are refused."""

from __future__ import annotations

import pytest

from omni_rlvr.text.modality_words import Lexicon
from omni_rlvr.types import UserError

LEXICON = Lexicon(["face", "Smile"], ["voice", "pitch"])


@pytest.mark.parametrize(
    ("text", "visual", "vocal", "lean"),
    [
        ("The face shows a smile; the voice is high.", 2, 1, 1 / 3),
        ("FACE, Smile", 2, 0, 1.0),
        ("pitch pitch pitch face", 1, 3, -0.5),
        ("faces, smiles, voiced, sur-face", 0, 0, None),  # whole words only
        ("", 0, 0, None),
        ("<b>face</b><script>voice</script>", 1, 1, 0.0),
    ],
)
def test_counts_by_hand(text: str, visual: int, vocal: int, lean: float | None):
    counts = LEXICON.count(text)
    assert (counts.visual, counts.vocal) == (visual, vocal)
    assert counts.lean == (None if lean is None else pytest.approx(lean))


@pytest.mark.parametrize(
    ("visual", "vocal", "message"),
    [
        ([], ["voice"], r"lexicon\.visual=\[\] is empty"),
        (["face"], [""], r"lexicon\.vocal: '' is not one word"),
        (["two words"], ["voice"], "'two words' is not one word"),
        ([False], ["voice"], "False is not one word; quote words such as no"),
        (["face", "tone"], ["Tone"], "tone stands in visual and in vocal"),
    ],
)
def test_lists_that_cannot_be_meant_are_refused(visual, vocal, message):
    with pytest.raises(UserError, match=message):
        Lexicon(visual, vocal)
