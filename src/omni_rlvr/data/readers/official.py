"""What the readers of official layouts share: from labelled clips to examples.

A reader finds the clips of a split and their official labels. Here the labels are translated to our
words, and the words to what the assistant says. Nothing is read from the clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from omni_rlvr.data.annotations.example_table import ExampleTable, source
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.annotations.validate import RAW, constant, to_examples
from omni_rlvr.media.files import SUFFIX, video_name
from omni_rlvr.types import UserError


def labelled_examples(
    columns: Mapping[str, Any], root: Path, labels: LabelMap, question: str
) -> ExampleTable:
    """Make examples of clips with an official label each.

    Args:
        columns: ``label``, ``video`` and ``file``; where known ``audio``, ``id``, ``cues``,
            ``number``, and ``thought``, the reasoning that stands before the label.
        root: The data set's folder.
        labels: Translates ``label``; rows it leaves out are counted in the table's ``left_out``.
        question: What is asked of every clip, unless ``columns`` has a ``question``.

    Raises:
        UserError: No row is left, or one is wrong.
    """
    rows = pa.table({**columns, "number": columns.get("number", _nulls(columns, pa.int64()))})
    found = labels.apply(rows["label"], lambda row: source(rows, row))
    rows = rows.append_column("word", found.words)
    if found.left_out:
        rows = rows.filter(pc.is_valid(rows["word"]))
    if not rows.num_rows:
        raise UserError(f"{root}: every row is left out by dataset.label_maps: {found.left_out}")
    raw = {
        name: rows[name] if name in columns else _nulls(rows, RAW.field(name).type)
        for name in RAW.names
    }
    if "question" not in columns:
        raw["question"] = constant(question, rows.num_rows)
    raw["target"] = _targets(rows)
    raw["number"] = rows["number"]
    return to_examples(pa.table(raw), root, labels.ours, found.left_out)


def clip_folder(root: Path, folders: Sequence[str]) -> str:
    """Return the first folder of clips that exists, or the first one if none does."""
    return next((folder for folder in folders if (root / folder).is_dir()), folders[0])


def clip_paths_of(names: Any, root: Path, folder: str) -> pa.Array:
    """Turn file names that have a media suffix, or none, into paths below the root.

    A name without one gets that of its video, whichever it is; see ``media.files.video_name``.
    """
    whole = pc.match_substring_regex(names, SUFFIX).to_pylist()
    rows = zip(names.to_pylist(), whole, strict=True)
    files = [name if done else video_name(root / folder, name) for name, done in rows]
    return pa.array([f"{folder}/{file}" for file in files], pa.string())


def _targets(rows: pa.Table) -> Any:
    if "thought" not in rows.column_names:
        return rows["word"]
    return pc.binary_join_element_wise(
        "<think>", rows["thought"], "</think>\n<answer>", rows["word"], "</answer>", ""
    )


def _nulls(columns: Mapping[str, Any] | pa.Table, kind: pa.DataType) -> pa.Array:
    length = columns.num_rows if isinstance(columns, pa.Table) else len(columns["label"])
    return pa.nulls(length, kind)
