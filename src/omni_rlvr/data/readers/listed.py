"""Data sets that list their clips in a file of names and labels: DFEW, MAFW, MER2023.

The YAML of the data set says where the lists and the clips may be: the official place first, then
the places that published code expects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.annotations.lists import find, read_list
from omni_rlvr.data.annotations.validate import files
from omni_rlvr.data.readers.official import clip_folder, clip_paths_of, complete_examples
from omni_rlvr.media.files import SUFFIX, located

NAMES = {
    "name": ("video_name", "name", "names", "video", "clip", "file", "filename", "path"),
    "label": ("label", "discrete", "emotion", "annotation", "class"),
}
"""The names that the two columns have in headers."""


@dataclass(frozen=True, kw_only=True)
class ListedReader:
    """Reads ``name,label`` lists, with or without a header.

    A name may have a suffix (``00001.mp4``) or none (``1``, ``sample_00000047``). A number is
    padded with zeros, unless the folder of clips has a file named by the bare number. A list may
    also hold paths (path, number of frames, label), see ``clip_paths``.

    Args:
        split: The split's name in ``lists``.
        root: The data set's folder.
        fold: The fold in ``lists``; None for a data set without folds.
        lists: Paths below the root where the list may be, with ``{split}`` and ``{fold}`` in them.
        clips: Folders below the root in which the clips may be.
        num_digits: The number of digits in the file name of a numbered clip; 0 if clips have no
            numbers.
        labels: Translates the labels.
        question: The question about every clip.
    """

    split: str
    root: str
    fold: int | None
    lists: Sequence[str]
    clips: Sequence[str]
    num_digits: int
    labels: LabelMap
    question: str

    def read(self) -> ExampleTable:
        """Read and validate the split's list."""
        values = {"split": self.split, "fold": self.fold}
        path = find(Path(self.root), self.lists, values, "dataset.splits.SPLIT.lists=[FILE]")
        table = read_list(path, NAMES)
        folder = clip_folder(self.root, self.clips)
        videos = clip_paths(table["name"], self.root, folder, self.num_digits)
        table = table.append_column("video", videos)
        table = table.append_column("file", files(path, table.num_rows))
        return complete_examples(table, self.root, self.labels, self.question)


def clip_paths(names: Any, root: str, folder: str, num_digits: int) -> pa.Array:
    """Turn clip names of a list into paths below the root.

    A list may hold paths of the machine that it was made on, which may have run Windows. The
    folders before a name are dropped if the path is absolute, or if the first clip is directly in
    the folder of clips; otherwise they are taken to be below that folder.
    """
    names = pc.replace_substring(names, "\\", "/")
    names = pc.replace_substring_regex(names, r"^(?:[A-Za-z]:)?/(?:[^/]+/)*", "")
    first = names.slice(0, 1)
    whole, last = (
        located(Path(root, _paths(name, root, folder, num_digits)[0].as_py()))
        for name in (first, _last(first))
    )
    is_below = whole.exists() or not last.exists()
    return _paths(names if is_below else _last(names), root, folder, num_digits)


def _last(names: Any) -> Any:
    return pc.replace_substring_regex(names, "^.*/", "")


def _paths(names: Any, root: str, folder: str, num_digits: int) -> pa.Array:
    as_listed = clip_paths_of(names, root, folder)
    if not num_digits:
        return as_listed
    stems = pc.replace_substring_regex(names, SUFFIX, "")
    last = pc.replace_substring_regex(names, r"^.*\.", ".")
    suffixes = pc.if_else(pc.match_substring_regex(names, SUFFIX), last, "")
    filled = pc.utf8_lpad(stems, num_digits, "0")
    padded = pc.if_else(pc.match_substring_regex(stems, r"^[0-9]+$"), filled, stems)
    in_full = clip_paths_of(pc.binary_join_element_wise(padded, suffixes, ""), root, folder)
    bare, full = (located(Path(root, column[0].as_py())) for column in (as_listed, in_full))
    return as_listed if bare.exists() and not full.exists() else in_full
