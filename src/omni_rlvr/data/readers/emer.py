"""EMER (now OV-MERD): clips of MER2023 with reasoning and any number of emotion words.

Version 1 is one file, ``gt-eng.csv``, with the reasoning and the words (the labels of MER2023).
Version 2 has reasoning in free text and no words of its own: they come from the list of MER2023, or
from the release named OV-MERD, which has words and reasoning in two files. The answer of an example
is its words, joined by ", "; its thinking is the reasoning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.lists import find, read_quoted
from omni_rlvr.data.annotations.validate import files
from omni_rlvr.data.readers.official import clip_folder, clip_paths_of, complete_examples
from omni_rlvr.types import UserError, require

_NAME = ("names", "name")
_WORDS = ("emotions", "openset", "ovlabel", "labels", "label", "discrete")
_REASON = ("reasons", "reason", "english", "description")


@dataclass(frozen=True, kw_only=True)
class EmerReader:
    """Reads the reasoning and the words of every clip.

    Args:
        root: The folder that the paths below are relative to.
        lists: Pairs of csv files, of which the first pair that exists is read: a file of words
            (columns names and emotions, name and openset, or name and discrete) and a file of
            reasoning (names and reasons, name and english, or name and reason). Both may be the
            same file.
        clips: Folders below the root in which the clips may be.
        target: "reasoning" for ``<think>`` and ``<answer>``, "label" for the words alone.
        question: The question about every clip.
    """

    root: str
    lists: Sequence[Sequence[str]]
    clips: Sequence[str]
    target: str
    question: str

    def __post_init__(self) -> None:
        wanted = self.target in ("reasoning", "label")
        require(wanted, "dataset.layout.target", self.target, "reasoning or label")

    def read(self) -> ExampleTable:
        """Read and validate the annotations; a clip without reasoning or words is left out."""
        root = Path(self.root)
        wanted = [words for words, reasons in self.lists if (root / reasons).is_file()]
        if self.target == "label" or not wanted:
            wanted = [words for words, _ in self.lists]
        path = find(root, wanted, {}, self._missing())
        table = read_quoted(path, {"name": _NAME, "words": _WORDS})
        words = pa.array([", ".join(_split(text)) for text in table["words"].to_pylist()])
        table = table.append_column("label", words)
        unusable = {}
        if self.target == "reasoning":
            table = self._with_reasons(table, path)
            if len(table) < len(words):
                unusable = {"without reasoning": len(words) - len(table)}
        folder = clip_folder(self.root, self.clips)
        table = table.append_column("video", clip_paths_of(table["name"], self.root, folder))
        table = table.append_column("id", table["name"])
        table = table.append_column("file", files(path, table.num_rows))
        return complete_examples(table, self.root, None, self.question, unusable)

    def _missing(self) -> str:
        told = [reasons for _, reasons in self.lists if Path(self.root, reasons).is_file()]
        alone = f"; {told[0]} has reasons and no emotion words" if told else ""
        return f"dataset.layout.lists=[[WORDS,REASONS]]{alone}"

    def _with_reasons(self, table: pa.Table, words: Path) -> pa.Table:
        root = Path(self.root)
        paired = [reasons for name, reasons in self.lists if root / name == words]
        path = find(root, paired, {}, "dataset.layout.lists or dataset.layout.target=label")
        reasons = read_quoted(path, {"name": _NAME, "reason": _REASON})
        told = dict(zip(reasons["name"].to_pylist(), reasons["reason"].to_pylist(), strict=True))
        column = pa.array([told.get(name) for name in table["name"].to_pylist()], pa.string())
        table = table.append_column("thought", column).filter(pc.is_valid(column))
        if not table.num_rows:
            raise UserError(f"{path}: none of its clips is in {words}, which has the emotion words")
        return table


def _split(text: str) -> list[str]:
    """Split ``happy, sad``, ``happy;sad`` or ``['happy', 'sad']`` into words, each once."""
    words = text.strip("[] ").replace(";", ",").split(",")
    return list(dict.fromkeys(word.strip(" '\"") for word in words if word.strip(" '\"")))
