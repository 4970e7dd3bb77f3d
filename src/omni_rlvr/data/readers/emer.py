"""EMER (now OV-MERD): clips of MER2023 with reasoning and any number of emotion words.

v1 is one file with both (``gt-eng.csv``; its words are the labels of MER2023). v2 tells its clues
and conclusion in one free text and names no labels apart: they are MER2023's, in its own list, or
those of the release that calls it OV-MERD, whose words and reasons are two files. An example's
answer is its words joined by ", "; what it thinks is the reasoning.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.lists import find, read_quoted
from omni_rlvr.data.annotations.validate import constant, files, to_examples
from omni_rlvr.data.readers.official import clip_folder, clip_paths_of
from omni_rlvr.types import UserError, require

_NAME = ("names", "name")
_WORDS = ("emotions", "openset", "ovlabel", "labels", "label", "discrete")
_REASON = ("reasons", "reason", "english", "description")


class EmerReader:
    """Reads reasoning and words of every clip.

    Args:
        root: The folder that the paths below are relative to.
        lists: Pairs of csv files; the first pair that is there is read: words (columns names and
            emotions, or name and openset, or name and discrete) and reasoning (names and reasons,
            or name and english or reason). They may be the same file.
        clips: Folders below the root where the clips may lie.
        target: "reasoning": ``<think>`` and ``<answer>``; "label": the words alone.
        question: What is asked of every clip.
    """

    def __init__(
        self,
        *,
        root: str,
        lists: Sequence[Sequence[str]],
        clips: Sequence[str],
        target: str,
        question: str,
    ) -> None:
        require(
            target in ("reasoning", "label"), "dataset.layout.target", target, "reasoning or label"
        )
        self._root = Path(root)
        self._lists = lists
        self._clips = clips
        self._target = target
        self._question = question

    def read(self) -> ExampleTable:
        """Read and validate the annotations; a clip without reasoning or words is left out."""
        wanted = [words for words, reasons in self._lists if (self._root / reasons).is_file()]
        if self._target == "label" or not wanted:
            wanted = [words for words, _ in self._lists]
        path = find(self._root, wanted, {}, self._missing())
        table = read_quoted(path, {"name": _NAME, "words": _WORDS})
        words = pa.array([", ".join(_split(text)) for text in table["words"].to_pylist()])
        table = table.append_column("answer", words)
        left_out: dict[str, int] = {}
        target: Any = table["answer"]
        if self._target == "reasoning":
            table = self._with_reasons(table, path)
            if len(table) < len(words):
                left_out = {"without reasoning": len(words) - len(table)}
            target = pc.binary_join_element_wise(
                "<think>", table["reason"], "</think>\n<answer>", table["answer"], "</answer>", ""
            )
        folder = clip_folder(self._root, self._clips)
        rows = table.num_rows
        raw = {
            "question": constant(self._question, rows),
            "target": target,
            "video": clip_paths_of(table["name"], self._root, folder),
            "audio": pa.nulls(rows, pa.string()),
            "id": table["name"],
            "cues": pa.nulls(rows, pa.string()),
            "file": files(path, rows),
            "number": table["number"],
        }
        return to_examples(pa.table(raw), self._root, None, left_out)

    def _missing(self) -> str:
        told = [reasons for _, reasons in self._lists if (self._root / reasons).is_file()]
        alone = f"; {told[0]} has reasons and no emotion words" if told else ""
        return f"dataset.layout.lists=[[WORDS,REASONS]]{alone}"

    def _with_reasons(self, table: pa.Table, words: Path) -> pa.Table:
        paired = [reasons for name, reasons in self._lists if self._root / name == words]
        path = find(self._root, paired, {}, "dataset.layout.lists or dataset.layout.target=label")
        reasons = read_quoted(path, {"name": _NAME, "reason": _REASON})
        told = dict(zip(reasons["name"].to_pylist(), reasons["reason"].to_pylist(), strict=True))
        column = pa.array([told.get(name) for name in table["name"].to_pylist()], pa.string())
        table = table.append_column("reason", column).filter(pc.is_valid(column))
        if not table.num_rows:
            raise UserError(f"{path}: names no clip that {words} has words for")
        return table


def _split(text: str) -> list[str]:
    """Words of ``happy, sad``, ``happy;sad`` or ``['happy', 'sad']``, each once."""
    words = text.strip("[] ").replace(";", ",").split(",")
    return list(dict.fromkeys(word.strip(" '\"") for word in words if word.strip(" '\"")))
