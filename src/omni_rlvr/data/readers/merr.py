"""MERR (Emotion-LLaMA): pseudo-labelled clips of MER2023 with a description each.

``MERR_{coarse,fine}_grained.txt`` lists ``name n_frames label``, the ``.json`` of the same name
maps a clip to its description: ``caption`` (coarse) or ``smp_reason_caption`` (fine). What is said
is in ``transcription_en_all.csv`` (``name,sentence``), read if it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.annotations.lists import find, read_list, read_quoted
from omni_rlvr.data.annotations.rows import read_text
from omni_rlvr.data.annotations.validate import files
from omni_rlvr.data.readers.listed import NAMES, clip_paths
from omni_rlvr.data.readers.official import check_target, clip_folder, labelled_examples
from omni_rlvr.types import UserError, require

_KEYS = {"coarse": "caption", "fine": "smp_reason_caption"}


@dataclass(kw_only=True)
class MerrReader:
    """Reads labels and descriptions.

    Args:
        grain: "coarse" or "fine".
        root: The folder with the four files.
        clips: Folders below the root where MER2023's clips may lie.
        target: "reasoning": the description as ``<think>``, the label as ``<answer>``; "label".
        labels: Translates the labels.
        question: What is asked of every clip; ``{utterance}`` in it becomes what is said.
    """

    grain: str
    root: Path
    clips: Sequence[str]
    target: str
    labels: LabelMap
    question: str

    def __post_init__(self) -> None:
        require(self.grain in _KEYS, "grain", self.grain, "coarse or fine")
        check_target(self.target)
        self.root = Path(self.root)  # a config holds text

    def read(self) -> ExampleTable:
        """Read and validate the list, and the descriptions if they are the target."""
        path = find(self.root, [f"MERR_{self.grain}_grained.txt"], {}, "dataset.root")
        table = read_list(path, NAMES)
        folder = clip_folder(self.root, self.clips)
        columns = {
            "label": table["label"],
            "video": clip_paths(table["name"], self.root, folder, 0),
            "file": files(path, table.num_rows),
            "number": table["number"],
            "id": table["name"],
        }
        if self.target == "reasoning":
            columns["thought"] = pa.array(self._descriptions(table, path), pa.string())
        if "{utterance}" in self.question:
            columns["question"] = pa.array(self._questions(table, path), pa.string())
        return labelled_examples(columns, self.root, self.labels, self.question)

    def _questions(self, table: pa.Table, listed: Path) -> list[str]:
        key = "dataset.question without {utterance}"
        path = find(self.root, ["transcription_en_all.csv"], {}, key)
        rows = read_quoted(path, {"name": ("name",), "sentence": ("sentence",)})
        said = dict(zip(rows["name"].to_pylist(), rows["sentence"].to_pylist(), strict=True))
        sentences = _texts_of(table, said, listed, f"{path} has no sentence", key)
        return [self.question.replace("{utterance}", sentence) for sentence in sentences]

    def _descriptions(self, table: pa.Table, listed: Path) -> list[str]:
        advice = "dataset.layout.target=label"
        path = find(self.root, [f"MERR_{self.grain}_grained.json"], {}, advice)
        try:
            entries = json.loads(read_text(path))
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON: {error}") from error
        key = _KEYS[self.grain]
        told = {
            name: entry[key].strip()
            for name, entry in (entries.items() if isinstance(entries, dict) else ())
            if isinstance(entry, dict) and isinstance(entry.get(key), str)
        }
        return _texts_of(table, told, listed, f"{path} has no {key}", advice)


def _texts_of(
    table: pa.Table, texts: Mapping[str, str], listed: Path, lack: str, advice: str
) -> list[str]:
    """Return the text of each row's clip.

    Raises:
        UserError: A clip has none; the message names its line in the list.
    """
    names, lines = table["name"].to_pylist(), table["number"].to_pylist()
    for name, line in zip(names, lines, strict=True):
        if name not in texts:
            raise UserError(f"{listed}:{line}: {lack} for {name!r}; set {advice}")
    return [texts[name] for name in names]
