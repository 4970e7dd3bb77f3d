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
from omni_rlvr.types import UserError, require


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
    rows = pa.table({"number": pa.nulls(len(columns["label"]), pa.int64()), **columns})
    found = labels.apply(rows["label"], lambda row: source(rows, row))
    target = reasoning(rows["thought"], found.words) if "thought" in columns else found.words
    rows = rows.append_column("target", target).filter(pc.is_valid(found.words))
    if not rows.num_rows:
        raise UserError(f"{root}: every row is left out by dataset.label_maps: {found.left_out}")
    return complete_examples(rows, root, question, labels=labels.ours, left_out=found.left_out)


def complete_examples(
    rows: pa.Table,
    root: Path,
    question: str,
    *,
    labels: Sequence[str] | None,
    left_out: Mapping[str, int],
) -> ExampleTable:
    """Make examples of rows that lack some columns of ``RAW``.

    A row without a question asks ``question``; other missing columns are null.
    """
    raw = {name: pa.nulls(len(rows), RAW.field(name).type) for name in RAW.names}
    raw["question"] = constant(question, len(rows))
    raw |= {name: rows[name] for name in RAW.names if name in rows.column_names}
    return to_examples(pa.table(raw), root, labels, left_out)


def reasoning(thoughts: Any, answers: Any) -> Any:
    """Write the assistant turns that give the reasoning and then the answer."""
    return pc.binary_join_element_wise(
        "<think>", thoughts, "</think>\n<answer>", answers, "</answer>", ""
    )


def in_split(split: str, *, is_test: bool) -> bool:
    """Return whether a clip is in the split "train", "test" or "all"."""
    return split == "all" or is_test == (split == "test")


def check_target(target: str) -> None:
    """Check the option ``dataset.layout.target``."""
    known = ("reasoning", "label")
    require(target in known, "dataset.layout.target", target, " or ".join(known))


def clip_folder(root: Path, folders: Sequence[str]) -> str:
    """Return the first folder of clips that exists, or the first one if none does."""
    return next((folder for folder in folders if (root / folder).is_dir()), folders[0])


def clip_paths_of(names: Any, root: Path, folder: str) -> pa.Array:
    """Turn file names that have a media suffix, or none, into paths below the root.

    A name without one gets that of its video, whichever it is; see ``media.files.video_name``.
    """
    is_file = pc.match_substring_regex(names, SUFFIX).to_pylist()
    rows = zip(names.to_pylist(), is_file, strict=True)
    files = [name if done else video_name(root / folder, name) for name, done in rows]
    return pa.array([f"{folder}/{file}" for file in files], pa.string())
