"""What a synthetic clip shows, what its annotation says of it, and how far cues tell a label.

No clip is rendered here: drawing, voice and encoder are stood in for.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from every_case import every_case

from omni_rlvr.data.readers.annotated import AnnotationReader
from omni_rlvr.data.synthetic import emotions, face, generate, voice, wording
from omni_rlvr.data.synthetic.emotions import (
    CUES,
    LABELS,
    SPREAD,
    VISUAL,
    VOCAL,
    oracle_label,
    posterior,
)
from omni_rlvr.data.synthetic.generate import (
    SPLITS,
    balanced_labels,
    make_clip,
)
from omni_rlvr.text.prompts import EMOTION_QUESTION
from omni_rlvr.types import UserError

SPOKEN = {wording.phrase(cue, value): (cue, value) for cue in CUES for value in CUES[cue]}
QUESTION = EMOTION_QUESTION


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch):
    """A factory of a split's annotations, each with what was written of its clip."""
    written: list[tuple[str, bool, bool]] = []

    def note(path: Path, frames: object, fps: int, waveform: object, rate: int) -> None:
        written.append((path.name, frames is not None, waveform is not None))

    monkeypatch.setattr(face, "render", lambda *_: "frames")
    monkeypatch.setattr(voice, "synthesise", lambda *_: "sound")
    monkeypatch.setattr(generate, "write_clip", note)

    def make(split: str, num_clips: int) -> list[tuple[dict, tuple[str, bool, bool], str]]:
        written.clear()
        labels = balanced_labels(split, num_clips, 0)
        made = [make_clip(Path("clips"), split, 0, i, label) for i, label in enumerate(labels)]
        return list(zip(made, written, labels, strict=True))

    return make


def named(text: str) -> dict[str, str]:
    """The cues that a text names, and nothing else may stand in it."""
    found = {}
    for sentence in text.rstrip(".").split(". "):
        match = re.fullmatch(r"(The face shows|The voice has) (.+)", sentence)
        assert match, text
        for words in match[2].split(", "):
            cue, value = SPOKEN[words]
            assert cue in (VISUAL if "face" in match[1] else VOCAL)
            found[cue] = value
    return found


@pytest.mark.parametrize("split", ["cold_start", "rlvr"])
def test_a_sixth_lacks_its_picture_and_a_sixth_its_sound(rows, split: str) -> None:
    made = rows(split, 900)
    kinds = Counter(clip[1:] for _, clip, _ in made)
    # 900 / 6 = 150; a binomial's std is sqrt(900 * 1/6 * 5/6) = 11.2
    assert kinds.keys() == {(True, True), (True, False), (False, True)}
    assert abs(kinds[True, False] - 150) < 45
    assert abs(kinds[False, True] - 150) < 45
    for row, (name, seen, heard), _ in made:
        assert row.get("video") == (f"clips/{name}" if seen else None)
        assert row.get("audio") == (None if seen else f"clips/{name}")
        assert name.endswith(".mp4" if seen else ".m4a")
        media = "<video>\n" * seen + "<audio>\n" * heard
        assert row["conversations"][0] == {"from": "human", "value": f"{media}{QUESTION}"}
        assert row["cues"].keys() == {**(VISUAL if seen else {}), **(VOCAL if heard else {})}.keys()


@pytest.mark.parametrize("split", ["caption", "test", "ood"])
def test_clips_to_describe_and_to_test_on_have_both(rows, split: str) -> None:
    for row, (name, seen, heard), _ in rows(split, 100):
        assert seen
        assert heard
        assert row["video"] == f"clips/{name}"
        assert row["cues"].keys() == CUES.keys()


def test_reasoning_names_the_cues_that_the_clip_has_and_no_other(rows) -> None:
    for row, (_, seen, heard), label in rows("cold_start", 300):
        target = row["conversations"][1]["value"]
        match = re.fullmatch(r"<think>(.+)</think>\n<answer>(\w+)</answer>", target)
        assert match, target
        assert named(match[1]) == row["cues"]
        assert ("The face shows" in target, "The voice has" in target) == (seen, heard)
        assert match[2] in (label, wording.SHADES[label][1])


@every_case(
    ("label", "energy", "word"),
    [
        ("angry", "loud", "angry"),
        ("angry", "soft", "annoyed"),
        ("sad", "soft", "sad"),
        ("sad", "moderate", "sorrowful"),
        ("neutral", "moderate", "neutral"),
        ("neutral", "loud", "calm"),
    ],
)
def test_an_annotators_word_by_hand(label: str, energy: str, word: str) -> None:
    assert wording.free_word({"energy": energy, "pitch": "low"}, label) == word
    assert wording.free_word({"brows": "level"}, label) == label  # nothing was heard


def test_free_words_are_other_words_at_the_unlikely_volumes(rows) -> None:
    assert wording.SHADES.keys() == set(LABELS)
    shades = {shade for _, shade in wording.SHADES.values()}
    assert len(shades) == len(LABELS)
    assert not shades & set(LABELS)
    for label, (usual, _) in wording.SHADES.items():
        table = emotions.cue_probabilities("energy")[LABELS.index(label)]
        assert VOCAL["energy"][int(table.argmax())] == usual
    made = rows("cold_start", 600)
    answers = [re.split(r"</?answer>", row["conversations"][1]["value"])[1] for row, _, _ in made]
    share = sum(answer in shades for answer in answers) / len(answers)
    assert 0.1 < share < 0.4
    assert set(answers) == shades | set(LABELS)


def test_cold_start_is_read_without_a_label_list(rows, tmp_path: Path) -> None:
    made = [row for row, _, _ in rows("cold_start", 60)]
    (tmp_path / "a.json").write_text(json.dumps(made))
    examples = AnnotationReader("r1_omni", str(tmp_path / "a.json"), str(tmp_path), None, 0).read()
    assert {example.answer for example in examples} - set(LABELS)
    for row, example in zip(made, examples, strict=True):
        assert example.question == QUESTION
        assert example.target == row["conversations"][1]["value"]
        assert example.target.endswith(f"<answer>{example.answer}</answer>")
    with pytest.raises(UserError, match="is not one of the labels"):
        AnnotationReader("r1_omni", str(tmp_path / "a.json"), str(tmp_path), LABELS, 0).read()


@pytest.mark.parametrize("split", ["rlvr", "test", "ood"])
def test_label_splits_say_the_label_alone(rows, split: str) -> None:
    for row, _, label in rows(split, 30):
        assert row["conversations"][1] == {"from": "gpt", "value": label}


def test_captions_name_every_cue_and_no_emotion(rows) -> None:
    values: Counter[tuple[str, str]] = Counter()
    for row, _, _ in rows("caption", 600):
        question, answer = (turn["value"] for turn in row["conversations"])
        assert question == f"<video>\n<audio>\n{wording.CAPTION_QUESTIONS[True, True]}"
        assert named(answer) == row["cues"]
        assert not set(re.findall(r"\w+", answer)) & set(LABELS)
        values.update(row["cues"].items())
    # each value equally often: 600 / 2, / 3 or / 4, whatever the label
    for cue, options in CUES.items():
        for value in options:
            assert abs(values[cue, value] - 600 / len(options)) < 55


# ---- the oracle


def test_posterior_by_hand() -> None:
    def p(percent: float, num_values: int) -> float:
        return (1 - SPREAD) * percent / 100 + SPREAD / num_values

    # P(smiling | y) P(high | y), labels balanced: over their sum
    table = {
        "happy": (84, 78),
        "sad": (2, 6),
        "neutral": (6, 6),
        "angry": (2, 70),
        "surprise": (6, 83),
        "disgust": (2, 4),
        "fear": (2, 84),
    }
    products = [p(table[label][0], 4) * p(table[label][1], 3) for label in LABELS]
    expected = [product / sum(products) for product in products]
    assert posterior({"mouth": "smiling", "pitch": "high"}).tolist() == pytest.approx(expected)
    assert expected[0] > 0.7
    assert oracle_label({"mouth": "smiling", "pitch": "high"}) == "happy"
    assert posterior({}).tolist() == pytest.approx([1 / 7] * 7)


@every_case("cue", CUES)
def test_a_cues_values_have_probabilities(cue: str) -> None:
    table = emotions.cue_probabilities(cue)
    assert table.shape == (len(LABELS), len(CUES[cue]))
    assert table.sum(axis=1) == pytest.approx(1.0)
    assert (table > 0).all()  # no value rules a label out


@pytest.fixture(scope="module")
def drawn() -> list[tuple[str, dict[str, str]]]:
    """Label and cues of 3,000 clips of the test split, drawn as ``make_clip`` draws them."""
    number = list(SPLITS).index("test")
    return [
        (label, emotions.draw_cues(label, np.random.default_rng([0, number, i])))
        for i, label in enumerate(balanced_labels("test", 3000, 0))
    ]


@pytest.mark.slow
def test_these_are_the_cues_of_the_test_split(rows, drawn) -> None:
    made = rows("test", 3000)[:50]
    assert [(label, row["cues"]) for row, _, label in made] == drawn[:50]


def hit_rate(drawn: list[tuple[str, dict[str, str]]], known: Mapping[str, object]) -> float:
    hits = [
        oracle_label({cue: value for cue, value in values.items() if cue in known}) == label
        for label, values in drawn
    ]
    return 100 * sum(hits) / len(hits)


@pytest.mark.slow
def test_both_modalities_are_needed(drawn) -> None:
    both, seen, heard = (hit_rate(drawn, known) for known in (CUES, VISUAL, VOCAL))
    assert both >= 88
    for alone in (seen, heard):
        assert 30 < alone <= 70
        assert both - alone >= 18


@every_case(
    ("one", "other", "alike", "apart"),
    [
        ("fear", "surprise", VISUAL, VOCAL), ("angry", "disgust", VISUAL, VOCAL),
        ("happy", "surprise", VOCAL, VISUAL), ("angry", "fear", VOCAL, VISUAL),
        ("sad", "disgust", VOCAL, VISUAL),
    ],
)  # fmt: skip
def test_some_pairs_look_alike_and_some_sound_alike(one, other, alike, apart) -> None:
    def overlap(names: Mapping[str, object]) -> float:
        """Bhattacharyya coefficient of the two labels' cue distributions: 1 when they are equal."""
        a, b = LABELS.index(one), LABELS.index(other)
        tables = [emotions.cue_probabilities(cue) for cue in names]
        return float(np.prod([np.sqrt(t[a] * t[b]).sum() for t in tables]))

    assert overlap(alike) > 0.7
    assert overlap(apart) < 0.6
