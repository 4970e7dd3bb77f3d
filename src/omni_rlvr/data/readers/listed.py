"""Data sets that list their clips in a file of names and labels: DFEW, MAFW, MER2023.

The YAML of the data set names where the lists and the clips may lie: the official place first, and
then the places that published code expects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.annotations.lists import find, read_list
from omni_rlvr.data.annotations.validate import files
from omni_rlvr.data.readers.official import clip_folder, clip_paths_of, labelled_examples
from omni_rlvr.media.files import SUFFIX, located

NAMES = {
    "name": ("video_name", "name", "names", "video", "clip", "file", "filename", "path"),
    "label": ("label", "discrete", "emotion", "annotation", "class"),
}
"""What headers call the two columns."""


class ListedReader:
    """Reads ``name,label`` lists, with or without a header.

    A name may be bare (``1``, ``sample_00000047``) or a file (``00001.mp4``); a bare number is
    filled up with zeros, unless the clips folder has the file without. Of paths (as in
    lists of path, number of frames, label) the last part is the name, see ``clip_paths``.

    Args:
        split: The split's name in ``lists``.
        root: The data set's folder.
        fold: The fold in ``lists``; None for a data set without folds.
        lists: Where the list may lie below the root, ``{split}`` and ``{fold}`` filled in.
        clips: Folders below the root where the clips may lie.
        num_digits: Digits of a numbered clip's file name; 0 if clips have no numbers.
        labels: Translates the labels.
        question: What is asked of every clip.
    """

    def __init__(
        self,
        *,
        split: str,
        root: str,
        fold: int | None,
        lists: Sequence[str],
        clips: Sequence[str],
        num_digits: int,
        labels: LabelMap,
        question: str,
    ) -> None:
        self._values = {"split": split, "fold": fold}
        self._root = Path(root)
        self._lists = lists
        self._clips = clips
        self._num_digits = num_digits
        self._labels = labels
        self._question = question

    def read(self) -> ExampleTable:
        """Read and validate the split's list."""
        path = find(self._root, self._lists, self._values, "dataset.splits.SPLIT.lists=[FILE]")
        table = read_list(path, NAMES)
        folder = clip_folder(self._root, self._clips)
        columns = {
            "label": table["label"],
            "video": clip_paths(table["name"], self._root, folder, self._num_digits),
            "file": files(path, table.num_rows),
            "number": table["number"],
        }
        return labelled_examples(columns, self._root, self._labels, self._question)


def clip_paths(names: Any, root: Path, folder: str, num_digits: int) -> pa.Array:
    """Turn clip names of a list into paths below the root.

    A list may hold paths of the machine that it was made on, Windows too. Folders before a name
    are dropped if they are absolute, or if the first clip lies in the clips folder without them;
    otherwise they are below that folder.
    """
    names = pc.replace_substring(names, "\\", "/")
    names = pc.replace_substring_regex(names, r"^(?:[A-Za-z]:)?/(?:[^/]+/)*", "")
    first = names.slice(0, 1)
    whole, last = (
        located(root / _paths(name, root, folder, num_digits)[0].as_py())
        for name in (first, _last(first))
    )
    is_below = whole.exists() or not last.exists()
    return _paths(names if is_below else _last(names), root, folder, num_digits)


def _last(names: Any) -> Any:
    return pc.replace_substring_regex(names, "^.*/", "")


def _paths(names: Any, root: Path, folder: str, num_digits: int) -> pa.Array:
    as_listed = clip_paths_of(names, root, folder)
    if not num_digits:
        return as_listed
    stems = pc.replace_substring_regex(names, SUFFIX, "")
    last = pc.replace_substring_regex(names, r"^.*\.", ".")
    suffixes = pc.if_else(pc.match_substring_regex(names, SUFFIX), last, "")
    filled = pc.utf8_lpad(stems, num_digits, "0")
    padded = pc.if_else(pc.match_substring_regex(stems, r"^[0-9]+$"), filled, stems)
    in_full = clip_paths_of(pc.binary_join_element_wise(padded, suffixes, ""), root, folder)
    bare, full = (located(root / column[0].as_py()) for column in (as_listed, in_full))
    return as_listed if bare.exists() and not full.exists() else in_full
