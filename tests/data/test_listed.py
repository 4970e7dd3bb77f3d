"""DFEW, MAFW, MER2023: lists of names and labels in all the forms that are met."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import pytest
from official_trees import composed, lines, read, told, write

from omni_rlvr.types import UserError

pytestmark = pytest.mark.slow  # folders of clips are made

SET_1 = "EmoLabel_DataSplit/{split}(single-labeled)/set_1.csv"
WORDS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")


def dfew(root: Path, *rows: str, name: str = SET_1, split: str = "train") -> Path:
    return write(root, {name.format(split=split): lines(*rows)})


def answers(root: Path, *overrides: str, split: str = "train") -> list[str]:
    return [example.answer for example in read("dfew", root, split, *overrides)]


def test_dfew_as_released(tmp_path: Path) -> None:
    root = dfew(tmp_path, "video_name,label", "1,1", "2,7", "16372,4")
    examples = read("dfew", root, "train")
    assert told(examples) == [
        ("Clip/original/00001.mp4", "Clip/original/00001.mp4", "happy"),
        ("Clip/original/00002.mp4", "Clip/original/00002.mp4", "fear"),
        ("Clip/original/16372.mp4", "Clip/original/16372.mp4", "angry"),
    ]
    path = root / SET_1.format(split="train")
    assert [example.source for example in examples] == [f"{path}:{n}" for n in (2, 3, 4)]
    assert examples[0].question.startswith("As an emotional recognition expert; throughout")
    assert examples[0].target == "happy"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["1,1", "2,7"], ["happy", "fear"]),  # no header
        (["00001.mp4,1", "00002.mp4,7"], ["happy", "fear"]),
        (["1,0", "2,6"], ["happy", "fear"]),  # from 0
        (["1,1", "2,0", "3,7"], ["happy", "fear"]),  # a 0 among 1 to 7: no single label
        (["video_name,label", "1,Happy", "2,fear"], ["happy", "fear"]),  # words
        ([",label,video_name", "0,7,1", "1,1,2"], ["fear", "happy"]),  # columns by their names
        (["", "video_name,label", "", "1,7", ""], ["fear"]),
        (["1\t7"], ["fear"]),
        (["video_name;label", "1;7"], ["fear"]),  # a spreadsheet where the comma is decimal
        (["video_name,label\r1,7\r2,1\r"], ["fear", "happy"]),  # an old Mac's ends of lines
    ],
)
def test_dfew_variants(tmp_path: Path, rows: list[str], expected: list[str]) -> None:
    root = dfew(tmp_path, *rows)
    assert answers(root) == expected
    assert read("dfew", root, "train")[0].video == root / "Clip/original/00001.mp4"


@pytest.mark.parametrize(
    "name", ["label/single_{split}set_1.csv", "annotation/DFEW_set_1_{split}.txt"]
)
def test_dfew_lists_in_other_places(tmp_path: Path, name: str) -> None:
    rows = ["/somewhere/Clip/clip_224x224/00001 30 0", "/somewhere/Clip/clip_224x224/00002 9 6"]
    rows = rows if name.endswith("txt") else ["1,1", "2,7"]
    examples = read("dfew", dfew(tmp_path, *rows, name=name), "train")
    assert told(examples)[1] == ("Clip/original/00002.mp4", "Clip/original/00002.mp4", "fear")


@pytest.mark.parametrize(
    "above",
    ["DFEW/clip_224x224/", "../dfew/clip_224x224/", "/x/y/", "C:\\DFEW\\", "..\\x\\", "D:/"],
)
def test_folders_of_somebody_else_are_dropped(tmp_path: Path, above: str) -> None:
    root = dfew(tmp_path, f"{above}00001 30 0", f"{above}00002 9 6")
    write(root, {"Clip/original/00001.mp4": ""})
    clips = [example.video for example in read("dfew", root, "train")]
    assert clips == [root / "Clip/original/00001.mp4", root / "Clip/original/00002.mp4"]


def test_folders_below_the_clips_are_kept(tmp_path: Path) -> None:
    root = dfew(tmp_path, "a/00001.mp4,1", "b/00001.mp4,7")
    write(root, {"Clip/original/a/00001.mp4": "", "Clip/original/00001.mp4": ""})
    clips = [example.video for example in read("dfew", root, "train")]
    assert clips == [root / "Clip/original/a/00001.mp4", root / "Clip/original/b/00001.mp4"]


def test_dfew_clips_without_zeros(tmp_path: Path) -> None:
    root = write(dfew(tmp_path, "1,7"), {"Clip/original/1.mp4": ""})
    assert read("dfew", root, "train")[0].video == root / "Clip/original/1.mp4"


def test_a_file_that_may_count_from_0_or_1_is_refused(tmp_path: Path) -> None:
    root = dfew(tmp_path, "1,1", "2,6")
    with pytest.raises(UserError) as caught:
        answers(root)
    for part in ("set_1.csv:1: ", "from 1 to 6", "dataset.label_base=0 or dataset.label_base=1"):
        assert part in str(caught.value)
    assert answers(root, "dataset.label_base=0") == ["sad", "fear"]
    assert answers(root, "dataset.label_base=1") == ["happy", "disgust"]


def test_a_base_for_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels are words .*leave the option out"):
        answers(dfew(tmp_path, "1,happy"), "dataset.label_base=1")


@pytest.mark.parametrize("rows", [["1,1", "2,8", "3,7"], ["1,happy", "2,8"], ["1,7", "2,joy"]])
def test_an_unknown_label_is_named(tmp_path: Path, rows: list[str]) -> None:
    with pytest.raises(
        UserError, match=r"set_1\.csv:2: unknown label '(8|joy)'; known: .*; correct"
    ):
        answers(dfew(tmp_path, *rows))


def test_an_unknown_label_with_a_given_base(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set_1\.csv:2: unknown label '9'; known: "):
        answers(dfew(tmp_path, "1,1", "2,9"), "dataset.label_base=1")


def test_a_clip_that_climbs_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set_1\.csv:2: video .*outside the data folder"):
        answers(dfew(tmp_path, "1,7", "../../../1.mp4,7"))


@pytest.mark.parametrize("name", ["dfew", "mafw", "cremad", "iemocap", "ravdess"])
def test_a_fold_that_does_not_exist_names_those_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        read(name, tmp_path, "train", "dataset.fold=9")
    assert f"dataset.fold=9 is out of range: the folds of {name} are 1, 2, 3" in str(caught.value)


def test_a_fold_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.fold=1 .*meld are none, leave it null"):
        read("meld", tmp_path, "train", "dataset.fold=1")


def test_the_fold_decides_the_list(tmp_path: Path) -> None:
    dfew(tmp_path, "1,7")
    dfew(tmp_path, "1,1", "2,7", name=SET_1.replace("set_1", "set_3"))
    assert len(answers(tmp_path)) == 1
    assert len(answers(tmp_path, "dataset.fold=3")) == 2


def test_a_missing_list_or_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no annotation file .*test\(single-labeled\)/set_1\.csv"):
        answers(dfew(tmp_path, "1,7"), split="test")
    with pytest.raises(UserError, match=r"dataset\.root=.*no such folder"):
        answers(tmp_path / "nowhere")


def test_word_lists(tmp_path: Path) -> None:
    assert answers(dfew(tmp_path, "1,7"), "dataset.words=official") == ["Fear"]
    with pytest.raises(UserError, match=r"dataset\.words='mine' is not one .*r1_omni, official"):
        answers(tmp_path, "dataset.words=mine")


@pytest.mark.parametrize("text", ["", "\n\n", "video_name,label\n"])
def test_an_empty_list(tmp_path: Path, text: str) -> None:
    root = write(tmp_path, {SET_1.format(split="train"): text})
    with pytest.raises(UserError, match=r"is empty|no rows"):
        answers(root)


def test_lists_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has one column"):
        answers(dfew(tmp_path, "1", "2"))
    with pytest.raises(UserError, match="not a list of 2 columns"):
        answers(dfew(tmp_path, "1,2", "2,3,4"))
    with pytest.raises(UserError, match="no column is called label"):
        answers(dfew(tmp_path, "video_name,score", "1,1"))


def test_a_header_of_other_names_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"set_1\.csv:1: no column is called video_name or .* id, e"
    ):
        answers(dfew(tmp_path, "id,emotion_of_it", "1,1", "2,7"))


@pytest.mark.parametrize(("row", "column"), [(",7", "name"), ("1, ", "label")])
def test_a_blank_cell_is_named(tmp_path: Path, row: str, column: str) -> None:
    with pytest.raises(UserError, match=rf"set_1\.csv:4: the {column} is blank"):
        answers(dfew(tmp_path, "video_name,label", "1,1", "", row))


def test_a_list_with_braces_in_its_name(tmp_path: Path) -> None:
    write(tmp_path, {"my{list}_1.csv": "1,7\n"})
    assert answers(tmp_path, "dataset.splits.train.lists=['my{list}_{fold}.csv']") == ["fear"]


def test_mafw(tmp_path: Path) -> None:
    name = "Train & Test Set/single/no_caption/set_{k}/{split}.txt"
    write(
        tmp_path, {name.format(k=1, split="train"): lines("00025.mp4 anger", "00030.mp4 anxiety")}
    )
    write(tmp_path, {name.format(k=1, split="test"): lines("00031.mp4 happiness")})
    assert told(read("mafw", tmp_path, "train")) == [
        ("data/clips/00025.mp4", "data/clips/00025.mp4", "angry"),
        ("data/clips/00030.mp4", "data/clips/00030.mp4", "anxious"),
    ]
    assert told(read("mafw", tmp_path, "test", "dataset.words=official"))[0][2] == "happiness"


def test_mafw_blanks_at_the_ends_of_lines(tmp_path: Path) -> None:
    name = "Train & Test Set/single/no_caption/set_1/train.txt"
    write(tmp_path, {name: "00025.mp4 anger \r\n\r\n  00030.mp4   fear\r\n"})
    examples = read("mafw", tmp_path, "train")
    assert [(e.answer, e.source.rpartition(":")[2]) for e in examples] == [
        ("angry", "1"),
        ("fear", "3"),
    ]


def test_mafw_lists_of_another_class_order_are_not_taken_for_its_own(tmp_path: Path) -> None:
    """MMA-DFER's 3 is anger; in the release's order it would be happiness."""
    write(tmp_path, {"annotation/MAFW_set_1_train.txt": lines("/x/00025 46 3", "/x/00215 85 10")})
    with pytest.raises(UserError, match="no annotation file is there"):
        read("mafw", tmp_path, "train")


def test_published_counts_of_mafw_add_up() -> None:
    published = composed("dataset=mafw", "dataset.root=nowhere").dataset.published
    assert published.train.total[1] + published.test.total[0] == 9172


def test_mer2023(tmp_path: Path) -> None:
    rows = lines("name,discrete,valence", "sample_00000047,worried,-1.5")
    write(tmp_path, {"train-label.csv": rows, "train/x": ""})
    write(tmp_path, {"test-labels/test1-label.csv": rows.replace("worried", "surprise")})
    assert told(read("mer2023", tmp_path, "train")) == [
        ("train/sample_00000047.mp4", "train/sample_00000047.mp4", "worried")
    ]
    assert told(read("mer2023", tmp_path, "multi"))[0][1:] == (
        "test1/sample_00000047.mp4",
        "surprise",
    )


@pytest.mark.parametrize("experiment", ["cold_start", "rlvr", "sft_labels"])
@pytest.mark.parametrize(("name", "split"), [("dfew", "train"), ("merr", "fine")])
def test_an_experiment_trains_on_another_data_set(experiment: str, name: str, split: str) -> None:
    cfg = composed(f"+experiment={experiment}", f"dataset={name}", "dataset.root=nowhere")
    assert cfg.dataset.train_split == split
    cfg = composed(f"+experiment={experiment}")
    assert cfg.dataset.train_split in ("cold_start", "rlvr")


@pytest.mark.parametrize(
    "name", ["00001.MP4", "00001.mov", "00001.MOV", "1.Mkv", "00001.m2ts", "1.3GP"]
)
def test_a_listed_name_keeps_its_suffix(tmp_path: Path, name: str) -> None:
    (example,) = read("dfew", dfew(tmp_path, f"{name},7"), "train")
    number, _, suffix = name.partition(".")
    assert example.video == tmp_path / f"Clip/original/{int(number):05d}.{suffix}"


@pytest.mark.parametrize(
    ("listed", "there"),
    [("1", "00001.MP4"), ("1", "1.Mp4"), ("00001.mp4", "00001.MP4"), ("00001.MP4", "00001.mp4")],
)
def test_a_clip_is_found_in_any_case(tmp_path: Path, listed: str, there: str) -> None:
    root = write(dfew(tmp_path, f"{listed},7"), {f"Clip/original/{there}": ""})
    assert read("dfew", root, "train")[0].video == root / "Clip/original" / there


def test_a_listed_number_takes_the_container_that_is_there(tmp_path: Path) -> None:
    root = write(dfew(tmp_path, "1,7", "2,7", "3,7"), {"Clip/original/00002.avi": ""})
    assert [e.video.name for e in read("dfew", root, "train")] == [
        "00001.mp4", "00002.avi", "00003.mp4"
    ]  # fmt: skip


def test_names_in_another_unicode_form(tmp_path: Path) -> None:
    composed_name, apart = (normalize(form, "é1") for form in ("NFC", "NFD"))
    root = write(dfew(tmp_path, f"{apart},7", f"{apart}x.mp4,7"), {
        f"Clip/original/{composed_name}.mp4": "", f"Clip/original/{composed_name}x.mp4": ""
    })  # fmt: skip
    assert all(e.video.is_file() for e in read("dfew", root, "train"))
