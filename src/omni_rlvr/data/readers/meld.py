"""MELD: utterances of a television series, ``{train,dev,test}_sent_emo.csv``.

A clip is ``dia{Dialogue_ID}_utt{Utterance_ID}.mp4``. The test folder also holds doubles of some
clips (``final_videos_testdia*``); no annotation names them, so they are never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.annotations.lists import find, read_quoted
from omni_rlvr.data.annotations.validate import files
from omni_rlvr.data.readers.official import clip_folder, clip_paths_of, labelled_examples

_COLUMNS = {
    "utterance": ("utterance",),
    "label": ("emotion",),
    "dialogue": ("dialogue_id",),
    "turn": ("utterance_id",),
}


class MeldReader:
    """Reads a split's csv file, in UTF-8 or cp1252.

    Args:
        split: "train", "dev" or "test".
        root: The folder that the archives were unpacked in.
        lists: Where the csv file may lie below it, ``{split}`` filled in.
        clips: Folders below it where the split's clips may lie.
        labels: Translates the words of the column Emotion.
        question: What is asked of every clip; ``{utterance}`` in it becomes what is said.
    """

    def __init__(
        self,
        *,
        split: str,
        root: str,
        lists: Sequence[str],
        clips: Sequence[str],
        labels: LabelMap,
        question: str,
    ) -> None:
        self._split = split
        self._root = Path(root)
        self._lists = lists
        self._clips = clips
        self._labels = labels
        self._question = question

    def read(self) -> ExampleTable:
        """Read and validate the split's file."""
        values = {"split": self._split}
        path = find(self._root, self._lists, values, f"dataset.splits.{self._split}.lists=[FILE]")
        table = read_quoted(path, _COLUMNS)
        folder = clip_folder(self._root, self._clips)
        ids = pc.binary_join_element_wise("dia", table["dialogue"], "_utt", table["turn"], "")
        columns = {
            "label": table["label"],
            "video": clip_paths_of(ids, self._root, folder),
            "id": ids,
            "file": files(path, table.num_rows),
            "number": table["number"],
        }
        if "{utterance}" in self._question:
            asked = [
                self._question.replace("{utterance}", said)
                for said in table["utterance"].to_pylist()
            ]
            columns["question"] = pa.array(asked)
        return labelled_examples(columns, self._root, self._labels, self._question)
