"""MERR (Emotion-LLaMA): pseudo-labelled clips of MER2023 with a description each.

``MERR_{coarse,fine}_grained.txt`` lists ``name n_frames label``. The ``.json`` file of the same
name maps a clip to its description: ``caption`` (coarse) or ``smp_reason_caption`` (fine). What is
said in a clip is in ``transcription_en_all.csv`` (``name,sentence``), which is read only if the
question has ``{utterance}`` in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.annotations.lists import find, read_list, read_quoted
from omni_rlvr.data.annotations.rows import read_text
from omni_rlvr.data.annotations.validate import files
from omni_rlvr.data.readers.listed import NAMES, clip_paths
from omni_rlvr.data.readers.official import clip_folder, complete_examples
from omni_rlvr.types import UserError, require

_KEYS = {"coarse": "caption", "fine": "smp_reason_caption"}


@dataclass(frozen=True, kw_only=True)
class MerrReader:
    """Reads labels and descriptions.

    Args:
        grain: "coarse" or "fine".
        root: The folder with the four files.
        clips: Folders below the root in which the clips of MER2023 may be.
        target: "reasoning" for the description as ``<think>`` and the label as ``<answer>``,
            "label" for the label alone.
        labels: Translates the labels.
        question: The question about every clip; ``{utterance}`` in it becomes what is said.
    """

    grain: str
    root: str
    clips: Sequence[str]
    target: str
    labels: LabelMap
    question: str

    def __post_init__(self) -> None:
        require(self.grain in _KEYS, "grain", self.grain, "coarse or fine")
        wanted = self.target in ("reasoning", "label")
        require(wanted, "dataset.layout.target", self.target, "reasoning or label")

    def read(self) -> ExampleTable:
        """Read and validate the list, and the descriptions if they are the target."""
        path = find(Path(self.root), [f"MERR_{self.grain}_grained.txt"], {}, "dataset.root")
        table = read_list(path, NAMES)
        folder = clip_folder(self.root, self.clips)
        table = table.append_column("video", clip_paths(table["name"], self.root, folder, 0))
        table = table.append_column("file", files(path, table.num_rows))
        table = table.append_column("id", table["name"])
        if self.target == "reasoning":
            table = table.append_column("thought", [self._descriptions(table, path)])
        if "{utterance}" in self.question:
            table = table.append_column("question", [self._questions(table, path)])
        return complete_examples(table, self.root, self.labels, self.question)

    def _questions(self, table: pa.Table, listed: Path) -> list[str]:
        key = "dataset.question without {utterance}"
        path = find(Path(self.root), ["transcription_en_all.csv"], {}, key)
        said = read_quoted(path, {"name": ("name",), "sentence": ("sentence",)})
        told = dict(zip(said["name"].to_pylist(), said["sentence"].to_pylist(), strict=True))
        questions = []
        for name, line in zip(table["name"].to_pylist(), table["number"].to_pylist(), strict=True):
            if name not in told:
                raise UserError(f"{listed}:{line}: {path} has no sentence for {name!r}; set {key}")
            questions.append(self.question.replace("{utterance}", told[name]))
        return questions

    def _descriptions(self, table: pa.Table, listed: Path) -> list[str]:
        mend, root = "dataset.layout.target=label", Path(self.root)
        path = find(root, [f"MERR_{self.grain}_grained.json"], {}, mend)
        key = _KEYS[self.grain]
        try:
            told = json.loads(read_text(path))
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON: {error}") from error
        texts = []
        for name, line in zip(table["name"].to_pylist(), table["number"].to_pylist(), strict=True):
            entry = told.get(name) if isinstance(told, dict) else None
            if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
                raise UserError(f"{listed}:{line}: {path} has no {key} for {name!r}; set {mend}")
            texts.append(entry[key].strip())
        return texts
