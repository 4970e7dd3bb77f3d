"""Counting words of a lexicon, by hand; lists that cannot be meant are refused."""

from __future__ import annotations

import pytest
from every_case import every_case

from omni_rlvr.text.modality_words import Lexicon
from omni_rlvr.types import UserError

LEXICON = Lexicon(["face", "Smile"], ["voice", "pitch"])


@every_case(
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


def test_a_phrase_is_of_a_modality_if_its_words_are():
    text = "A wide smile, a face and voice as one (high pitch!) but <i>Face</i>\nno more."
    marked = [(s.text, s.modality, s.is_counted) for s in LEXICON.segments(text)]
    assert "".join(part for part, _, _ in marked) == text
    assert [part for part in marked if part[1]] == [
        ("A wide ", "visual", False),
        ("smile", "visual", True),
        ("a ", "visual", False),
        ("face", "visual", True),
        ("voice", "vocal", True),
        (" as one", "vocal", False),
        ("high ", "vocal", False),
        ("pitch", "vocal", True),
        ("<i>", "visual", False),
        ("Face", "visual", True),
        ("</i>", "visual", False),
    ]


def test_of_a_phrase_with_both_only_the_words_are_marked():
    marked = [(s.text, s.modality) for s in LEXICON.segments("her face fits her voice well")]
    assert marked == [
        ("her ", None),
        ("face", "visual"),
        (" fits her ", None),
        ("voice", "vocal"),
        (" well", None),
    ]
    counted = [s for s in LEXICON.segments("face voice") if s.is_counted]
    counts = LEXICON.count("face voice")
    assert len(counted) == counts.visual + counts.vocal


@every_case("text", ["", " ", ".", "face", " ... and", "\n\nvoice\n"])
def test_segments_make_up_the_text(text: str):
    assert "".join(s.text for s in LEXICON.segments(text)) == text


@every_case(
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
