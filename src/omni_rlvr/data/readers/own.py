"""Your own clips with a label each: a csv that names them, or a folder for each label.

Several usual names of each column are known. ``dataset.labels`` lists the labels that may occur, so
that a misspelt label is an error and not another class. Clips are not opened.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.lists import read_quoted
from omni_rlvr.data.annotations.rows import place
from omni_rlvr.data.annotations.validate import RAW, to_examples
from omni_rlvr.data.readers.annotated import annotation_file
from omni_rlvr.data.readers.listed import NAMES
from omni_rlvr.media.files import AUDIO, SUFFIX, VIDEO, has_suffix, in_words, video_name, walk
from omni_rlvr.text.parse import normalise_label
from omni_rlvr.types import UserError

log = logging.getLogger(__name__)

_OPTIONAL = {
    "video": NAMES["name"],
    "audio": ("audio", "sound", "wav"),
    "question": ("question",),
    "reasoning": ("reasoning", "reason", "think", "thought"),
}
_HAS_SUFFIX = re.compile(SUFFIX).search


@dataclass(frozen=True, kw_only=True)
class CsvReader:
    """Reads a csv (or a list with tabs or semicolons) whose header names its columns.

    ``label`` is needed, and ``video``, ``audio`` or both. A ``question`` is asked in place of the
    usual one; ``reasoning`` is what a cold start learns to write before the label.

    Args:
        annotations: The file, in the working folder or else below ``root``.
        root: The folder that the paths of clips are relative to.
        labels: The labels that may occur, compared without regard to case; None for any.
        question: What is asked about a clip whose row asks nothing.
    """

    annotations: str
    root: str
    labels: Sequence[str] | None
    question: str

    def read(self) -> ExampleTable:
        """Read and validate every row.

        Raises:
            UserError: The file or a row is not as described; names the line.
        """
        path = annotation_file(self.annotations, self.root)
        rows = read_quoted(path, {"label": NAMES["label"]}, _OPTIONAL).to_pydict()
        for column in ("label", "reasoning"):
            if "" in rows.get(column, ()):
                number = rows["number"][rows[column].index("")]
                raise UserError(f"{place(path, number)}: the {column} is blank")
        check_labels(self.labels, rows["label"], str(path))
        rows["video"] = [self._with_suffix(name) for name in rows.get("video", ())]
        rows["file"] = [str(path)] * len(rows["label"])
        return _examples(rows, self.root, self.labels, self.question)

    def _with_suffix(self, name: str) -> str:
        name = name.replace("\\", "/")  # of a list that was made on Windows
        return name if not name or _HAS_SUFFIX(name) else video_name(Path(self.root), name)


@dataclass(frozen=True, kw_only=True)
class FolderReader:
    """Reads a folder that has a folder for each label, with the clips of that label at any depth.

    A sound file that has the name of a video beside it, but for the suffix, is that video's sound.

    Args:
        annotations: The folder of the labels' folders, below ``root``.
        root: The data set's folder.
        labels: The labels that may occur, compared without regard to case; None for any.
        question: What is asked about every clip.
    """

    annotations: str
    root: str
    labels: Sequence[str] | None
    question: str

    def read(self) -> ExampleTable:
        """Find the clips, in the order of their names.

        Raises:
            UserError: There is no such folder, no clip in it, or a clip outside the labels'
                folders.
        """
        top = Path(self.root, self.annotations)
        if not top.is_dir():
            raise UserError(
                f"{top}: there is no such folder; dataset.annotations.SPLIT names a folder below "
                "dataset.root that has a folder for each label"
            )
        clips = self._clips(top)
        if not clips:
            raise UserError(
                f"{top}: there is no clip in its folders; it needs a folder for each label"
            )
        rows: dict[str, list[Any]] = {"label": [label for label, _ in clips]}
        check_labels(self.labels, rows["label"], str(top))
        for key in ("video", "audio"):
            rows[key] = [clip.get(key) for clip in clips.values()]
        rows["file"] = [str(Path(self.root, *list(clip.values())[:1])) for clip in clips.values()]
        return _examples(rows, self.root, self.labels, self.question)

    def _clips(self, top: Path) -> dict[tuple[str, str], dict[str, str]]:
        """Map label and name without suffix to the files of a clip, by modality."""
        found = walk(top)
        left_out = dict(found.left_out)
        clips: dict[tuple[str, str], dict[str, str]] = {}
        for path in found.files:
            below = path.relative_to(top)
            if below.name.startswith(".") or not has_suffix(path.name, VIDEO + AUDIO):
                left_out.setdefault("files that are no clips", []).append(below.name)
                continue
            if len(below.parts) == 1:
                raise UserError(
                    f"{path}: the clip is not in a label's folder; move it to "
                    f"{top / 'LABEL' / path.name}"
                )
            key = "video" if has_suffix(path.name, VIDEO) else "audio"
            clip = clips.setdefault((below.parts[0], str(below.with_suffix(""))), {})
            if key in clip:
                raise UserError(f"{path}: {clip[key]} has the same name; rename one of them")
            clip[key] = str(path.relative_to(self.root))
        if left_out:
            log.info("%s: left out: %s", top, in_words(left_out))
        return clips


def check_labels(labels: Sequence[str] | None, found: Sequence[str], where: str) -> None:
    """Require a list of labels; the error suggests the one that was found.

    Raises:
        UserError: ``labels`` is an empty list.
    """
    if labels is not None and not labels:
        spelled = {normalise_label(label): label for label in reversed(found)}
        counts = Counter(map(normalise_label, found))
        told = ", ".join(f"{spelled[label]} ({number})" for label, number in counts.items())
        listed = ",".join(spelled[label] for label in counts)
        raise UserError(
            f"dataset.labels must be given; {where} has {told}: 'dataset.labels=[{listed}]'"
        )


def _examples(
    rows: Mapping[str, Sequence[str | int | None]],
    root: str,
    labels: Sequence[str] | None,
    question: str,
) -> ExampleTable:
    """Validate the columns and make the target of each row; a blank cell counts as missing."""
    num_rows = len(rows["label"])
    blank = [None] * num_rows
    columns = {name: [text or None for text in rows.get(name) or blank] for name in RAW.names}
    columns["question"] = [text or question for text in columns["question"]]
    columns["target"] = [
        label if thought is None else f"<think>{thought}</think>\n<answer>{label}</answer>"
        for thought, label in zip(rows.get("reasoning", blank), rows["label"], strict=True)
    ]
    return to_examples(pa.table(columns, RAW), Path(root), labels, {})
