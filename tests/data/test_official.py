"""RAVDESS, CREMA-D, MELD, IEMOCAP, EMER and MERR, each as a miniature of its release."""

from __future__ import annotations

import copy
import json
import logging
from collections import Counter
from pathlib import Path

import case_folders
import pytest
from official_trees import RAVDESS_WORDS, composed, lines, ravdess, read, told, write
from omegaconf import OmegaConf

from omni_rlvr.assembly.instantiate import check
from omni_rlvr.assembly.splits import fewer_than_published
from omni_rlvr.types import UserError

pytestmark = pytest.mark.slow  # folders of clips are made

# ---- RAVDESS


def test_ravdess_folds_are_of_actors(tmp_path: Path) -> None:
    ravdess(tmp_path, (1, 4, 5, 24), ("01", "02"))
    test = read("ravdess", tmp_path, "test")
    assert [e.id[-2:] for e in test] == ["01", "04"] * 8  # by name: the actor comes last
    assert Counter(e.answer for e in test) == dict.fromkeys(RAVDESS_WORDS, 2)
    assert {e.id[-2:] for e in read("ravdess", tmp_path, "train")} == {"05", "24"}
    assert {e.id[-2:] for e in read("ravdess", tmp_path, "test", "dataset.fold=6")} == {"24"}
    assert len(read("ravdess", tmp_path, "all")) == 4 * 8
    (first, *_) = test
    path = "Video_Speech_Actor_01/Actor_01/01-01-01-01-01-01-01.mp4"
    assert first.video == tmp_path / path
    assert first.source == str(tmp_path / path)
    assert first.audio is None


def test_ravdess_calm_is_kept_or_merged(tmp_path: Path) -> None:
    ravdess(tmp_path, (1,), ("01",))
    merged = read("ravdess", tmp_path, "all", "dataset.words=calm_merged")
    assert Counter(e.answer for e in merged)["neutral"] == 2
    official = read("ravdess", tmp_path, "all", "dataset.words=official")
    assert {"fearful", "surprised", "calm"} < {e.answer for e in official}


def test_ravdess_video_and_sound_of_one_trial(tmp_path: Path) -> None:
    separate = "dataset.layout.sound=separate"
    ravdess(tmp_path, (1,), ("01", "02"))
    with pytest.raises(UserError, match=r"no 03-01-01-01-01-01-01\.wav .*layout\.sound=own"):
        read("ravdess", tmp_path, "all", separate)
    ravdess(tmp_path / "Audio_Speech_Actors_01-24", (1,), ("03",))
    examples = read("ravdess", tmp_path, "all", separate)
    assert len(examples) == 8
    assert examples[7].id == "02-01-08-01-01-01-01"
    assert examples[7].audio.name == "03-01-08-01-01-01-01.wav"
    with pytest.raises(UserError, match=r"dataset\.layout\.sound='both'"):
        read("ravdess", tmp_path, "all", "dataset.layout.sound=both")


def test_an_archive_unpacked_twice_counts_once(tmp_path: Path) -> None:
    ravdess(tmp_path, (1,), ("01",))
    ravdess(tmp_path / "again", (1,), ("01",))
    assert len(read("ravdess", tmp_path, "all")) == 8


@pytest.mark.parametrize("name", ["ravdess", "cremad", "iemocap"])
def test_an_empty_folder_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"dataset\.root=.*is there \(looked for"):
        read(name, tmp_path, "train")


# ---- CREMA-D


def test_cremad_folds_are_of_speakers(tmp_path: Path) -> None:
    names = [f"{actor}_{s}_FEA_XX" for actor in range(1001, 1012) for s in ("DFA", "IEO")]
    write(tmp_path, {f"VideoFlash/{name}.flv": "" for name in [*names, "1001_IOM_ANG_MD"]})
    speakers = {
        fold: {e.id[:4] for e in read("cremad", tmp_path, "test", f"dataset.fold={fold}")}
        for fold in range(1, 6)
    }
    assert speakers[1] == {"1001", "1006", "1011"}
    assert sum(len(s) for s in speakers.values()) == len(set.union(*speakers.values())) == 11
    train = {e.id[:4] for e in read("cremad", tmp_path, "train", "dataset.fold=2")}
    assert train == set.union(*speakers.values()) - speakers[2]
    examples = read("cremad", tmp_path, "all", "dataset.layout.sound=wav")
    assert len(examples) == 23
    found = {e.id: (e.answer, e.audio.name) for e in examples}
    assert found["1001_IOM_ANG_MD"] == ("angry", "1001_IOM_ANG_MD.wav")


# ---- MELD

HEADER = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,"
    "StartTime,EndTime"
)


def meld(root: Path, split: str, *rows: str) -> Path:
    return write(root, {f"{split}_sent_emo.csv": lines(HEADER, *rows).encode("cp1252")})


def test_meld(tmp_path: Path) -> None:
    meld(tmp_path, "test", '1,"Why, you\u0092re here\u0085",Mark,joy,positive,0,3,3,19,"0,1","0,2"'
         .replace("\u0092", "\u2019").replace("\u0085", "\u2026"),
         '2,"Two\nlines",Mark,anger,negative,12,0,3,19,"0,1","0,2"')  # fmt: skip
    folder = "output_repeated_splits_test"
    names = ("dia0_utt3", "final_videos_testdia0_utt3", "dia12_utt0")
    write(tmp_path, {f"{folder}/{name}.mp4": "" for name in names})
    question = "dataset.question='Heard: {utterance}'"
    examples = read("meld", tmp_path, "test", question)
    assert told(examples) == [
        ("dia0_utt3", f"{folder}/dia0_utt3.mp4", "happy"),
        ("dia12_utt0", f"{folder}/dia12_utt0.mp4", "angry"),
    ]
    assert examples[0].question == "Heard: Why, you\u2019re here\u2026"
    assert [e.source.rpartition(":")[2] for e in examples] == ["2", "4"]
    assert read("meld", tmp_path, "test", "dataset.words=official")[0].answer == "joy"


@pytest.mark.parametrize(("sign", "codec"), [("\t", "utf-16"), (";", "utf-8-sig")])
def test_meld_as_a_spreadsheet_saves_it(tmp_path: Path, sign: str, codec: str) -> None:
    row = sign.join(["1", '"Why, you"', "Mark", "joy", "positive", "0", "3", "3", "19", "0", "2"])
    text = lines(HEADER.replace(",", sign), row).encode(codec)
    write(tmp_path, {"test_sent_emo.csv": text})
    (example,) = read("meld", tmp_path, "test", "dataset.question='Heard: {utterance}'")
    assert (example.question, example.answer) == ("Heard: Why, you", "happy")


def test_meld_splits_have_their_folders(tmp_path: Path) -> None:
    row = '1,"A",B,fear,negative,1,2,3,4,"0","1"'
    for split in ("train", "dev"):
        meld(tmp_path, split, row)
    assert told(read("meld", tmp_path, "train"))[0][1] == "train_splits/dia1_utt2.mp4"
    assert told(read("meld", tmp_path, "dev"))[0][1] == "dev_splits_complete/dia1_utt2.mp4"


def test_meld_wrong_rows(tmp_path: Path) -> None:
    meld(tmp_path, "dev", '1,"A",B,bored,negative,1,2,3,4,"0","1"')
    with pytest.raises(UserError, match=r"dev_sent_emo\.csv:2: unknown label 'bored'"):
        read("meld", tmp_path, "dev")
    meld(tmp_path, "dev", '1,"A",B,fear')
    with pytest.raises(UserError, match=r"dev_sent_emo\.csv:2: the column dialogue_id is missing"):
        read("meld", tmp_path, "dev")


# ---- IEMOCAP


def iemocap(root: Path) -> Path:
    """Two sessions, one dialogue each, with votes and attributes between the lines as released."""
    for session, codes in ((1, ("ang", "exc", "xxx")), (5, ("neu", "hap", "fru"))):
        dialogue = f"Ses{session:02d}F_impro05"
        rows = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for turn, code in enumerate(codes):
            who = "FM"[turn % 2]
            rows += [
                f"[{turn}.5000 - {turn}.9000]\t{dialogue}_{who}{turn:03d}\t{code}\t[2.5, 2.5, 2.5]",
                "C-E2:\tNeutral;\t()",
            ]
        name = f"Session{session}/dialog/EmoEvaluation/{dialogue}.txt"
        write(root, {name: lines(*rows)})
    return root


def test_iemocap(tmp_path: Path) -> None:
    examples = read("iemocap", iemocap(tmp_path), "train")
    assert told(examples) == [
        (
            f"Ses01F_impro05_{turn}",
            f"Session1/sentences/wav/Ses01F_impro05/Ses01F_impro05_{turn}.wav",
            word,
        )
        for turn, word in (("F000", "angry"), ("M001", "happy"))
    ]
    assert examples[0].video is None
    assert examples[0].cues == {"speaker_side": "left", "start_s": "0.5000", "end_s": "0.9000"}
    assert examples[1].cues["speaker_side"] == "right"  # F is on the left in a dialogue named F
    assert examples[1].source.endswith("Ses01F_impro05.txt:5")
    assert examples.left_out == {"xxx": 1}


def test_iemocap_folds_classes_and_cut_clips(tmp_path: Path) -> None:
    write(iemocap(tmp_path), {"clips/x": ""})
    six = ("dataset.words=six", "dataset.question='Look at the person on the {side}.'")
    test = read("iemocap", tmp_path, "test", *six)
    assert [e.answer for e in test] == ["neutral", "happy", "frustrated"]
    assert test[0].video == tmp_path / "clips" / "Ses05F_impro05_F000.mp4"
    assert test[1].question == "Look at the person on the right."
    one = read("iemocap", tmp_path, "test", "dataset.fold=1", *six)
    assert [e.answer for e in one] == ["angry", "excited"]
    assert len(read("iemocap", tmp_path, "all")) == 4


def test_an_iemocap_line_that_is_none(tmp_path: Path) -> None:
    name = "Session1/dialog/EmoEvaluation/Ses01F_impro05.txt"
    write(iemocap(tmp_path), {name: "[1.0 - 2.0]\tSes01F_impro05_F000\tang\n"})
    with pytest.raises(UserError, match=r"Ses01F_impro05\.txt:1: .*is not \[start - end\]"):
        read("iemocap", tmp_path, "all")


# ---- EMER, MERR


def test_emer_v1(tmp_path: Path) -> None:
    rows = lines(
        "names,emotions,subtitles,reasons",
        'sample_00000342,"happy, surprised",Oh,"She smiles,\nher eyes are wide."',
        "sample_00000700,\"['sad', 'sad']\",No,He weeps.",
    )
    write(tmp_path, {"EMER/dataset-v1/gt-eng.csv": rows})
    first, second = read("emer", tmp_path, "train")
    assert (first.id, first.answer) == ("sample_00000342", "happy, surprised")
    thought = "<think>She smiles,\nher eyes are wide.</think>\n<answer>happy, surprised</answer>"
    assert first.target == thought
    assert first.video == tmp_path / "video" / "sample_00000342.mp4"
    assert second.answer == "sad"
    (label, _) = read("emer", tmp_path, "train", "dataset.layout.target=label")
    assert label.target == "happy, surprised"


def test_ov_merd_and_v2(tmp_path: Path) -> None:
    words = lines("name,openset", 'a,"[happy, calm]"', 'b,"[sad]"')
    write(tmp_path, {"track2_train_ovmerd.csv": words})
    write(tmp_path, {"track3_train_ovmerd.csv": lines("name,reason", "a,She sings.")})
    examples = read("emer", tmp_path, "train")
    assert told(examples) == [("a", "video/a.mp4", "happy, calm")]
    assert examples.left_out == {"without reasoning": 1}
    write(tmp_path, {"final-EMER-reason.csv": lines("name,chinese,english", "b,x,He weeps.")})
    pair = "dataset.layout.lists=[[track2_train_ovmerd.csv,final-EMER-reason.csv]]"
    (example,) = read("emer", tmp_path, "train", pair)
    assert example.target == "<think>He weeps.</think>\n<answer>sad</answer>"


def test_emer_v2_takes_the_words_of_mer2023(tmp_path: Path) -> None:
    reasons = lines("name,chinese,english", 'a,x,"He ""weeps""."')
    write(tmp_path, {"EMER/dataset-v2/final-EMER-reason.csv": reasons})
    with pytest.raises(UserError) as caught:
        read("emer", tmp_path, "train")
    for part in ("looked for train-label.csv", "final-EMER-reason.csv has reasons and no emotion"):
        assert part in str(caught.value)
    write(tmp_path, {"train-label.csv": lines("name,discrete,valence", "b,happy,1", "a,sad,-2")})
    examples = read("emer", tmp_path, "train")
    assert [e.target for e in examples] == ['<think>He "weeps".</think>\n<answer>sad</answer>']
    assert examples.left_out == {"without reasoning": 1}


def test_merr(tmp_path: Path) -> None:
    told_of = {"sample_1": {"smp_reason_caption": "A frown.", "caption": "A man."}}
    write(tmp_path, {"MERR_fine_grained.txt": "sample_1 134 doubt\n"})
    write(tmp_path, {"MERR_coarse_grained.txt": "sample_1 134 0\nsample_2 9 8\n"})
    write(tmp_path, {f"MERR_{g}_grained.json": json.dumps(told_of) for g in ("fine", "coarse")})
    (fine,) = read("merr", tmp_path, "fine")
    assert fine.target == "<think>A frown.</think>\n<answer>doubt</answer>"
    assert fine.video == tmp_path / "video" / "sample_1.mp4"
    with pytest.raises(UserError, match=r"coarse_grained\.txt:2: .*no caption for 'sample_2'"):
        read("merr", tmp_path, "coarse")
    coarse = read("merr", tmp_path, "coarse", "dataset.layout.target=label")
    assert [e.target for e in coarse] == ["neutral", "doubt"]


def test_merr_says_what_is_said(tmp_path: Path) -> None:
    write(tmp_path, {"MERR_fine_grained.txt": "sample_1 134 doubt\nsample_2 9 fear\n"})
    asked = ("dataset.question='Heard: {utterance}'", "dataset.layout.target=label")
    with pytest.raises(UserError, match=r"transcription_en_all\.csv\); set dataset\.question with"):
        read("merr", tmp_path, "fine", *asked)
    said = lines("name,sentence", 'sample_1,"Well, it\u2019s\u2026"')
    write(tmp_path, {"transcription_en_all.csv": said.encode("cp1252")})
    with pytest.raises(UserError, match=r"fine_grained\.txt:2: .* no sentence for 'sample_2'"):
        read("merr", tmp_path, "fine", *asked)
    write(tmp_path, {"transcription_en_all.csv": said + "sample_2,\n"})
    examples = read("merr", tmp_path, "fine", *asked)
    assert [e.question for e in examples] == ["Heard: Well, it\u2019s\u2026", "Heard: "]


# ---- links, suffixes, and how many clips there should be


def test_ravdess_behind_links(tmp_path: Path, caplog) -> None:
    root = case_folders.linked_actors(
        ravdess(tmp_path / "root", (1, 2, 3, 4), ("01",)), tmp_path / "disk"
    )
    with caplog.at_level(logging.WARNING):
        examples = read("ravdess", root, "all")
    assert len(examples) == 4 * 8
    assert sorted({e.id[-2:] for e in examples}) == ["01", "02", "03", "04"]
    assert all(e.video.is_file() for e in examples)
    assert "1 links to folders that are read already" in caplog.text  # the circle


def test_a_root_that_is_a_link(tmp_path: Path) -> None:
    ravdess(tmp_path / "disk", (1,), ("01",))
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    assert len(read("ravdess", tmp_path / "root", "all")) == 8


@pytest.mark.parametrize("suffix", ["MP4", "mov", "avi"])
def test_ravdess_in_other_containers(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, {f"01-01-03-01-01-01-01.{suffix}": "", "01-01-03-01-01-01-02.txt": ""})
    ((name, path, answer),) = told(read("ravdess", tmp_path, "all"))
    assert (name, answer) == ("01-01-03-01-01-01-01", "happy")
    assert path == f"{name}.{suffix}"


def test_cremad_in_other_containers_and_behind_links(tmp_path: Path) -> None:
    write(tmp_path / "disk", {"1001_DFA_ANG_XX.FLV": "", "1001_IEO_SAD_HI.mp4": "", "x.flv": ""})
    (tmp_path / "VideoFlash").mkdir()
    (tmp_path / "VideoFlash" / "part").symlink_to(tmp_path / "disk")
    assert [path for _, path, _ in told(read("cremad", tmp_path, "all"))] == [
        "VideoFlash/part/1001_DFA_ANG_XX.FLV",
        "VideoFlash/part/1001_IEO_SAD_HI.mp4",
    ]


def test_meld_in_another_container(tmp_path: Path) -> None:
    rows = lines("Utterance,Emotion,Dialogue_ID,Utterance_ID", "Hi,joy,0,1", "No,anger,0,2")
    write(tmp_path, {"train_sent_emo.csv": rows, "train_splits/dia0_utt1.MKV": ""})
    paths = [path for _, path, _ in told(read("meld", tmp_path, "train"))]
    assert paths == ["train_splits/dia0_utt1.MKV", "train_splits/dia0_utt2.mp4"]


def test_fewer_clips_than_published_are_said_in_words(tmp_path: Path) -> None:
    def said(name: str, split: str, root: Path, *overrides: str) -> str | None:
        cfg = copy.deepcopy(composed(f"dataset={name}", "dataset.root=nowhere"))
        OmegaConf.update(cfg, "dataset.root", str(root))
        for override in overrides:
            OmegaConf.update(cfg, *override.split("="))
        return fewer_than_published(split, read(name, root, split), check(cfg)[1]["dataset"])

    ravdess(tmp_path / "r", (1, 5), ("01",))
    assert said("ravdess", "all", tmp_path / "r") == (
        "dataset=ravdess: 16 of 1,440 published clips of the split 'all' were found below "
        f"{tmp_path / 'r'}; unpack the rest there, or go on with these; "
        "task=check counts them by label"
    )
    assert "8 of 240 published" in str(said("ravdess", "test", tmp_path / "r"))
    write(tmp_path / "c/VideoFlash", {f"1001_DFA_ANG_XX{i}.flv": "" for i in ("", "x")})
    assert "1 of 7,442 published" in str(said("cremad", "all", tmp_path / "c"))
    listed = ["video_name,label", *(f"{i},1" for i in range(2341)), "2341,7"]
    place = "EmoLabel_DataSplit/test(single-labeled)/set_1.csv"
    write(tmp_path / "d", {place: lines(*listed)})
    assert said("dfew", "test", tmp_path / "d") is None  # one more than published
    write(
        tmp_path / "d",
        {"EmoLabel_DataSplit/test(single-labeled)/set_1.csv": lines(*listed[:900], "0,7")},
    )
    assert "900 of 2,341 published" in str(said("dfew", "test", tmp_path / "d"))
