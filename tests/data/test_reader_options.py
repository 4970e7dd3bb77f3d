"""Arguments of readers that only a data set's own file sets: flipped, and what then changes."""

from __future__ import annotations

import json
from pathlib import Path

from official_trees import lines, read, told, write


def test_num_digits_pads_the_names_of_numbered_clips(tmp_path: Path) -> None:
    lists = "EmoLabel_DataSplit/train(single-labeled)/set_1.csv"
    write(tmp_path, {lists: lines("video_name,label", "1,1", "2,7")})
    names = [
        told(read("dfew", tmp_path, "train", f"dataset.splits.train.num_digits={n}"))[0][1]
        for n in (0, 3, 5)
    ]
    assert names == [f"Clip/original/{n}.mp4" for n in ("1", "001", "00001")]


def test_num_folds_deals_speakers_into_so_many(tmp_path: Path) -> None:
    names = [f"{actor}_DFA_FEA_XX" for actor in range(1001, 1005)]
    write(tmp_path, {f"VideoFlash/{name}.flv": "" for name in names})
    for count, speakers in ((5, {"1001"}), (2, {"1001", "1003"})):
        flip = f"dataset.splits.test.num_folds={count}"
        assert {e.id[:4] for e in read("cremad", tmp_path, "test", flip)} == speakers


def test_grain_chooses_the_list(tmp_path: Path) -> None:
    captions = {"sample_1": {"smp_reason_caption": "A frown.", "caption": "A man."}}
    write(tmp_path, {"MERR_fine_grained.txt": "sample_1 134 doubt\n"})
    write(tmp_path, {"MERR_coarse_grained.txt": "sample_1 134 0\n"})
    write(tmp_path, {f"MERR_{g}_grained.json": json.dumps(captions) for g in ("fine", "coarse")})
    answers = [
        read("merr", tmp_path, "fine", f"dataset.splits.fine.grain={grain}")[0].answer
        for grain in ("fine", "coarse")
    ]
    assert answers == ["doubt", "neutral"]
