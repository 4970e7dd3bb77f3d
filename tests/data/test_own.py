"""Your own clips: a csv of names and labels, and a folder for each label."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from official_trees import lines, read, told, write

from omni_rlvr.assembly.splits import check_reasoning
from omni_rlvr.text.prompts import EMOTION_QUESTION
from omni_rlvr.types import UserError

LABELS = "dataset.labels=[happy, sad]"


def of_csv(root: Path, *rows: str, name: str = "train.csv", labels: str = LABELS):
    write(root, {name: lines(*rows)})
    return read("csv", root, "train", f"dataset.annotations.train={name}", labels)


def of_folders(root: Path, *names: str, labels: str = LABELS, **annotations: str):
    write(root, dict.fromkeys(names, ""))
    given = [f"dataset.annotations.train={folder}" for folder in annotations.values()]
    return read("folders", root, "train", labels, *given)


def test_a_csv_of_names_and_labels(tmp_path: Path) -> None:
    examples = of_csv(tmp_path, "video,label", "a.mp4,happy", "b/c.mov,Sad")
    assert told(examples) == [("a.mp4", "a.mp4", "happy"), ("b/c.mov", "b/c.mov", "sad")]
    assert [example.target for example in examples] == ["happy", "Sad"]
    assert {example.question for example in examples} == {EMOTION_QUESTION}
    assert examples[1].source == f"{tmp_path}/train.csv:3"


@pytest.mark.parametrize(
    "rows",
    [
        ["emotion;filename", "happy;a.mp4"],
        ["id\tlabel\tpath", "7\thappy\ta.mp4"],
        ["label,clip", '"happy","a.mp4"'],
        ["Label,Video", " happy , a.mp4 "],
        ["video,label", "a,happy"],  # a name without suffix: .mp4 unless another container is there
    ],
)
def test_the_forms_that_a_csv_comes_in(tmp_path: Path, rows: list[str]) -> None:
    assert told(of_csv(tmp_path, *rows)) == [("a.mp4", "a.mp4", "happy")]


def test_names_of_windows_and_names_without_suffix(tmp_path: Path) -> None:
    write(tmp_path, {"b/c.mkv": ""})
    (example,) = of_csv(tmp_path, "video,label", "b\\c,happy")
    assert example.video == tmp_path / "b" / "c.mkv"


def test_sound_question_and_reasoning(tmp_path: Path) -> None:
    first, second = of_csv(
        tmp_path,
        "video,audio,label,question,reasoning",
        'a.mp4,a.wav,happy,How does she feel?,"She smiles, and laughs."',
        ",b.wav,sad,,A low voice.",
    )
    assert (first.video, first.audio) == (tmp_path / "a.mp4", tmp_path / "a.wav")
    assert (first.question, second.question) == ("How does she feel?", EMOTION_QUESTION)
    assert first.target == "<think>She smiles, and laughs.</think>\n<answer>happy</answer>"
    assert (second.video, second.audio, second.answer) == (None, tmp_path / "b.wav", "sad")


def test_what_is_said_of_targets_with_and_without_reasoning(tmp_path: Path) -> None:
    asks = "Output the thinking process in <think> </think> and the answer in <answer> </answer>."
    reasons = of_csv(tmp_path, "video,label,reasoning", "a.mp4,happy,A smile.", name="a.csv")
    labels = of_csv(tmp_path, "video,label", "b.mp4,sad", "c.mp4,sad")
    mixed = "targets: 1 with reasoning, 2 of the label alone"
    assert check_reasoning([*reasons, *labels], "train", asks) == mixed
    alone = "targets: 0 with reasoning, 2 of the label alone"
    for instruction in (None, ""):
        assert check_reasoning(labels, "train", instruction) == alone
    with pytest.raises(UserError) as error:
        check_reasoning(labels, "train", asks)
    assert str(error.value).startswith(f"{tmp_path}/train.csv:2: no example of the split 'train'")
    for word in ("column reasoning", "+experiment=sft_labels", "model.instruction=''"):
        assert word in str(error.value)


def test_a_question_for_all(tmp_path: Path) -> None:
    write(tmp_path, {"train.csv": "video,label\na.mp4,cough\n"})
    (example,) = read(
        "csv", tmp_path, "train", "dataset.annotations.train=train.csv",
        "dataset.labels=[cough, speech]", "dataset.layout.question=What is heard?",
    )  # fmt: skip
    assert (example.question, example.answer) == ("What is heard?", "cough")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["video,label", "a.mp4,hapy"], r":2: the answer 'hapy' is not one of the labels: happy"),
        (["video,label", "a.mp4,happy", "b.mp4,"], r":3: the label is blank"),
        (["video,label", ",happy"], r":2: neither video nor audio is there"),
        (["label", "happy"], r":2: neither video nor audio is there"),
        (["video,mood", "a.mp4,happy"], r":1: no column is called label or .*there is video, mood"),
        (["video,label"], "holds a header and no rows"),
        (["video,label,reasoning", "a.mp4,happy,"], r":2: the reasoning is blank"),
        (
            ["video,label", "a.mp4,happy,loud"],
            r":2: the row has 3 cells, but the header 2; .*quotes",
        ),
        (["video,label", "a.mp4"], r":2: the column label is missing"),
        (["video,label", "../a.mp4,happy"], r":2: video '\.\./a\.mp4' is outside"),
    ],
)
def test_a_csv_that_is_refused(tmp_path: Path, rows: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        of_csv(tmp_path, *rows)
    assert str(caught.value).startswith(f"{tmp_path}/train.csv")


def test_labels_that_are_not_given_are_listed_to_copy(tmp_path: Path) -> None:
    rows = ("video,label", "a.mp4,Happy", "b.mp4,sad", "c.mp4,happy")
    with pytest.raises(UserError) as caught:
        of_csv(tmp_path, *rows, labels="dataset.labels=[]")
    said = str(caught.value)
    assert "train.csv has Happy (2), sad (1): 'dataset.labels=[Happy,sad]'" in said
    copied = re.search(r"'(.*)'", said)[1]
    assert [example.answer for example in of_csv(tmp_path, *rows, labels=copied)] == [
        "Happy", "sad", "Happy",
    ]  # fmt: skip


def test_a_folder_for_each_label(tmp_path: Path) -> None:
    examples = of_folders(
        tmp_path, "train/sad/b.mp4", "train/happy/a.mp4", "train/happy/day/c.wav", "test/sad/d.mp4"
    )
    assert told(examples) == [
        ("train/happy/a.mp4", "train/happy/a.mp4", "happy"),
        ("train/happy/day/c.wav", "train/happy/day/c.wav", "happy"),
        ("train/sad/b.mp4", "train/sad/b.mp4", "sad"),
    ]
    assert examples[1].video is None
    assert told(read("folders", tmp_path, "test", LABELS))[0][2] == "sad"


def test_the_folder_itself_and_a_sound_beside_its_video(tmp_path: Path) -> None:
    (example,) = of_folders(
        tmp_path, "happy/a.mp4", "happy/a.wav", "happy/.hidden.mp4", "notes.txt", top="."
    )
    assert (example.video, example.audio) == (tmp_path / "happy/a.mp4", tmp_path / "happy/a.wav")


def test_a_cold_start_may_take_any_word(tmp_path: Path) -> None:
    write(tmp_path, {"train.csv": "video,label\na.mp4,anxious\n"})
    (example,) = read(
        "csv", tmp_path, "train", "dataset.annotations.train=train.csv",
        "dataset.splits.train.labels=null",
    )  # fmt: skip
    assert example.answer == "anxious"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["train/a.mp4"],
            r"train/a\.mp4: the clip is not in a label's folder; move it to .*/LABEL/a\.mp4",
        ),
        (["train/hapy/a.mp4"], r"train/hapy/a\.mp4: the answer 'hapy' is not one of the labels"),
        (["train/happy/a.txt"], r"train: there is no clip in its folders"),
        (["happy/a.mp4"], r"train: there is no such folder; dataset\.annotations\.SPLIT names"),
        (["train/happy/a.mp4", "train/happy/a.mkv"], r"a\.mp4: .*a\.mkv has the same name"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, names: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        of_folders(tmp_path, *names)


def test_folders_show_their_labels_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has happy \(1\), sad \(1\): 'dataset.labels=\[happy,sad"):
        of_folders(tmp_path, "train/happy/a.mp4", "train/sad/b.mp4", labels="dataset.labels=[]")
