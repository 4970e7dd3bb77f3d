"""Code that the readers of official layouts share: make examples of clips with official labels.

A reader finds the clips of a split and their official labels. Here the labels are translated to the
words of the data set's YAML, and the training target of each clip is made. Clips are not opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from omni_rlvr.data.annotations.example_table import ExampleTable, source
from omni_rlvr.data.annotations.labels import LabelMap, Labels
from omni_rlvr.data.annotations.validate import RAW, constant, to_examples
from omni_rlvr.media.files import SUFFIX, video_name
from omni_rlvr.types import UserError


def complete_examples(
    rows: pa.Table,
    root: str,
    labels: LabelMap | None,
    question: str,
    unusable: Mapping[str, int] | None = None,
) -> ExampleTable:
    """Make examples of clips with an official label each.

    Args:
        rows: The columns ``label``, ``video`` and ``file``; where known ``audio``, ``id``,
            ``cues``, ``number``, ``question``, and ``thought``, the reasoning that stands before
            the label. Other columns are ignored.
        root: The data set's folder.
        labels: Translates ``label``; rows that it leaves out are counted in the table's
            ``left_out``. None keeps every label as it is.
        question: What is asked of every clip, unless there is a column ``question``.
        unusable: Reason -> rows that the reader itself left out, for ``left_out`` too.

    Raises:
        UserError: No row is left, or a row is invalid.
    """
    for field in RAW:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    found = Labels(rows["label"], {})
    if labels is not None:
        found = labels.apply(rows["label"], lambda row: source(rows, row))
    rows = rows.append_column("word", found.words)
    if found.left_out:
        rows = rows.filter(pc.is_valid(rows["word"]))
    if not rows.num_rows:
        raise UserError(f"{root}: every row is left out by dataset.label_maps: {found.left_out}")
    raw = {name: rows[name] for name in RAW.names}
    if raw["question"].null_count:
        raw["question"] = constant(question, rows.num_rows)
    raw["target"] = rows["word"]
    if "thought" in rows.column_names:
        raw["target"] = pc.binary_join_element_wise(
            "<think>", rows["thought"], "</think>\n<answer>", rows["word"], "</answer>", ""
        )
    left_out = {**(unusable or {}), **found.left_out}
    return to_examples(pa.table(raw), Path(root), None if labels is None else labels.ours, left_out)


def in_split(split: str, is_test: bool) -> bool:
    """Tell whether a test clip, or one of the others, is in the split "train", "test" or "all"."""
    return split == "all" or is_test == (split == "test")


def clip_folder(root: str, folders: Sequence[str]) -> str:
    """Return the first folder of clips that exists, or the first one if none does."""
    return next((folder for folder in folders if Path(root, folder).is_dir()), folders[0])


def clip_paths_of(names: Any, root: str, folder: str) -> pa.Array:
    """Turn file names that have a media suffix, or none, into paths below the root.

    A name without a suffix gets that of its video, see ``media.files.video_name``.
    """
    whole = pc.match_substring_regex(names, SUFFIX).to_pylist()
    rows = zip(names.to_pylist(), whole, strict=True)
    files = [name if done else video_name(Path(root, folder), name) for name, done in rows]
    return pa.array([f"{folder}/{file}" for file in files], pa.string())
