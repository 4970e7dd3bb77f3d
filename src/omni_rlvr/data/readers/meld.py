"""MELD: utterances of a television series, ``{train,dev,test}_sent_emo.csv``.

A clip is ``dia{Dialogue_ID}_utt{Utterance_ID}.mp4``. The test folder also holds copies of some
clips (``final_videos_testdia*``); no annotation names them, so they are never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.annotations.lists import find, read_quoted
from omni_rlvr.data.annotations.validate import files
from omni_rlvr.data.readers.official import clip_folder, clip_paths_of, complete_examples

_COLUMNS = {
    "utterance": ("utterance",),
    "label": ("emotion",),
    "dialogue": ("dialogue_id",),
    "turn": ("utterance_id",),
}


@dataclass(frozen=True, kw_only=True)
class MeldReader:
    """Reads a split's csv file, in UTF-8 or cp1252.

    Args:
        split: "train", "dev" or "test".
        root: The folder into which the archives were unpacked.
        lists: Paths below it where the csv file may be, with ``{split}`` in them.
        clips: Folders below it in which the split's clips may be.
        labels: Translates the words of the column Emotion.
        question: The question about every clip; ``{utterance}`` in it becomes what is said.
    """

    split: str
    root: str
    lists: Sequence[str]
    clips: Sequence[str]
    labels: LabelMap
    question: str

    def read(self) -> ExampleTable:
        """Read and validate the split's file."""
        values = {"split": self.split}
        path = find(
            Path(self.root), self.lists, values, f"dataset.splits.{self.split}.lists=[FILE]"
        )
        table = read_quoted(path, _COLUMNS)
        folder = clip_folder(self.root, self.clips)
        ids = pc.binary_join_element_wise("dia", table["dialogue"], "_utt", table["turn"], "")
        table = table.append_column("id", ids)
        table = table.append_column("video", clip_paths_of(ids, self.root, folder))
        table = table.append_column("file", files(path, table.num_rows))
        if "{utterance}" in self.question:
            said = table["utterance"].to_pylist()
            asked = [self.question.replace("{utterance}", text) for text in said]
            table = table.append_column("question", [asked])
        return complete_examples(table, self.root, self.labels, self.question)
