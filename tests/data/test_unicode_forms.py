"""One text in two Unicode forms (NFC, NFD) is one text: labels, answers, lexicons, paths."""

from __future__ import annotations

import json
from pathlib import Path
from unicodedata import normalize

import pyarrow as pa
import pytest
from every_case import every_case
from official_trees import write
from omegaconf import OmegaConf

from omni_rlvr.config.dataset import DatasetConfig
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.readers.annotated import AnnotationReader
from omni_rlvr.rewards.accuracy import Accuracy
from omni_rlvr.rewards.cues import CueCoverage
from omni_rlvr.rewards.gold import check_gold
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.rewards.open_vocabulary import SetF1
from omni_rlvr.text.modality_words import Lexicon
from omni_rlvr.text.parse import nfc_between_tags, normalise_label, parse
from omni_rlvr.types import Example, UserError

FORMS = ("NFC", "NFD", "NFKC")
WORD = "fâché"


def form(name: str, text: str = WORD) -> str:
    return normalize(name, text)


def annotated(folder: Path, answer: str, labels: list[str] | None, video: str = "1.mp4"):
    turns = [{"from": "human", "value": "Quoi?"}, {"from": "gpt", "value": answer}]
    path = folder / "a.json"
    path.write_text(json.dumps([{"video": video, "conversations": turns}]), "utf-8")
    return AnnotationReader("r1_omni", str(path), str(folder), labels, 0).read()


@every_case("answer", FORMS)
@every_case("label", FORMS)
@every_case("said", FORMS)
def test_every_right_answer_earns_the_reward(tmp_path: Path, answer, label, said) -> None:
    target = f"<think>Il est {form(answer)}.</think>\n<answer>{form(answer).upper()}</answer>"
    (example,) = annotated(tmp_path, target, [form(label), "triste"])
    assert example.answer == form("NFC")
    assert example.target == normalize("NFC", target)
    completion = f"<think>x</think><answer>{form(said)}</answer>"
    assert Accuracy({})([completion], [example]) == [1.0]
    assert SetF1({})([completion], [example]) == [1.0]
    check_gold(Mixture({"accuracy": Accuracy({})}, {"accuracy": 1.0}), [example])


@pytest.mark.parametrize("spelling", FORMS)
def test_synonyms(spelling: str) -> None:
    accuracy = Accuracy({form(spelling): "colère"})
    example = Example("1", "?", form("NFD", "colère"), "", None)
    completion = f"<think>x</think><answer>{form('NFD')}</answer>"
    assert accuracy([completion], [example]) == [1.0]


def test_answers_without_a_label_list(tmp_path: Path) -> None:
    (example,) = annotated(tmp_path, form("NFD"), None)
    assert (example.answer, example.target) == (form("NFC"), form("NFC"))


def test_one_label_twice_is_refused_in_both_forms(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the same label twice"):
        annotated(tmp_path, WORD, [form("NFC"), form("NFD")])


def test_what_is_not_one_text_stays_two(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not one of the labels"):
        annotated(tmp_path, "ＨＡＰＰＹ", ["happy"])  # full-width letters
    with pytest.raises(UserError, match="is not one of the labels"):
        annotated(tmp_path, "fache", [WORD])
    assert normalise_label("ﬁ") == "fi"  # folding case did this before


def test_the_labels_of_a_data_set_are_in_one_form() -> None:
    assert DatasetConfig(name="x", labels=[form("NFD")]).labels == [form("NFC")]
    schema = OmegaConf.structured(DatasetConfig(name="x", root="r", train_split="t"))
    typed = OmegaConf.to_object(OmegaConf.merge(schema, {"labels": [form("NFD")]}))
    assert typed.labels == [form("NFC")]
    assert LabelMap({form("NFD"): form("NFD")}, None).ours == [form("NFC")]


@pytest.mark.parametrize("listed", FORMS)
def test_words_of_official_lists(listed: str) -> None:
    labels = LabelMap({form("NFD"): form("NFD"), "autre": None}, None)
    column = pa.chunked_array([[form(listed), "autre"]])
    assert labels.apply(column, str).words.to_pylist() == [form("NFC"), None]


@every_case("there", ["NFC", "NFD"])
@every_case("asked", ["NFC", "NFD"])
def test_paths(tmp_path: Path, there: str, asked: str) -> None:
    root = write(tmp_path / form(there), {f"{form(there)}/1.mp4": ""})
    for video in (f"{form(asked)}/1.mp4", f"{tmp_path}/{form(asked)}/{form(asked)}/1.MP4"):
        (example,) = annotated(root, WORD, None, video)
        assert example.video == root / form(there) / "1.mp4"
    for video in (f"../{form(asked)}x/1.mp4", f"{tmp_path}/{form(asked)}x/1.mp4"):
        with pytest.raises(UserError, match="outside the data folder"):
            annotated(root, WORD, None, video)


def test_annotations_under_a_name_in_another_form(tmp_path: Path) -> None:
    annotated(tmp_path, "sad", None)
    (tmp_path / "a.json").rename(tmp_path / f"{form('NFD')}.json")
    path = tmp_path / f"{form('NFC')}.json"
    assert len(AnnotationReader("r1_omni", str(path), str(tmp_path), None, 0).read()) == 1


@every_case("listed", FORMS)
@every_case("said", FORMS)
def test_lexicons(listed: str, said: str) -> None:
    lexicon = Lexicon([form(listed, "fossé")], ["voix"])
    text = f"Le {form(said, 'Fossé')} et la voix"
    counts = lexicon.count(text)
    assert (counts.visual, counts.vocal) == (1, 1)
    segments = lexicon.segments(text)
    assert "".join(segment.text for segment in segments) == form("NFC", text)
    cues = CueCoverage({"visual": [form(listed, "œil fermé")]}, 0)
    assert cues([f"<think>Un {form(said, 'ŒIL fermé')}.</think>"]) == [1.0]


MARK = "\u0338"  # a stroke over the character before it: with ">" it is one character in NFC


def test_tags_are_found_before_anything_is_composed() -> None:
    text = f"<think>a</think><answer>{MARK}sad</answer>"
    assert "<answer>" not in normalize("NFC", text)
    assert parse(text).answer == f"{MARK}sad"
    assert parse(text).well_formed
    assert nfc_between_tags(text) == text
    assert nfc_between_tags(f"<think>{form('NFD')}</think>{MARK}") == (
        f"<think>{form('NFC')}</think>{MARK}"
    )


def test_a_target_with_such_a_mark_is_read_as_before(tmp_path: Path) -> None:
    target = f"<think>{form('NFD')}</think><answer>{MARK}sad</answer>"
    (example,) = annotated(tmp_path, target, None)
    assert example.answer == f"{MARK}sad"
    assert example.target == f"<think>{form('NFC')}</think><answer>{MARK}sad</answer>"
