"""MERR (Emotion-LLaMA): pseudo-labelled clips of MER2023 with a description each.

``MERR_{coarse,fine}_grained.txt`` lists ``name n_frames label``, the ``.json`` of the same name
maps a clip to its description: ``caption`` (coarse) or ``smp_reason_caption`` (fine). What is said
is in ``transcription_en_all.csv`` (``name,sentence``), read if it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.annotations.lists import find, read_list, read_quoted
from omni_rlvr.data.annotations.rows import read_text
from omni_rlvr.data.annotations.validate import files
from omni_rlvr.data.readers.listed import NAMES, clip_paths
from omni_rlvr.data.readers.official import clip_folder, labelled_examples
from omni_rlvr.types import UserError, require

_KEYS = {"coarse": "caption", "fine": "smp_reason_caption"}


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

    def __init__(
        self,
        *,
        grain: str,
        root: str,
        clips: Sequence[str],
        target: str,
        labels: LabelMap,
        question: str,
    ) -> None:
        require(grain in _KEYS, "grain", grain, "coarse or fine")
        require(
            target in ("reasoning", "label"), "dataset.layout.target", target, "reasoning or label"
        )
        self._grain = grain
        self._root = Path(root)
        self._clips = clips
        self._target = target
        self._labels = labels
        self._question = question

    def read(self) -> ExampleTable:
        """Read and validate the list, and the descriptions if they are the target."""
        path = find(self._root, [f"MERR_{self._grain}_grained.txt"], {}, "dataset.root")
        table = read_list(path, NAMES)
        folder = clip_folder(self._root, self._clips)
        columns = {
            "label": table["label"],
            "video": clip_paths(table["name"], self._root, folder, 0),
            "file": files(path, table.num_rows),
            "number": table["number"],
            "id": table["name"],
        }
        if self._target == "reasoning":
            columns["thought"] = self._descriptions(table, path)
        if "{utterance}" in self._question:
            columns["question"] = self._questions(table, path)
        return labelled_examples(columns, self._root, self._labels, self._question)

    def _questions(self, table: pa.Table, listed: Path) -> pa.Array:
        key = "dataset.question without {utterance}"
        path = find(self._root, ["transcription_en_all.csv"], {}, key)
        said = read_quoted(path, {"name": ("name",), "sentence": ("sentence",)})
        told = dict(zip(said["name"].to_pylist(), said["sentence"].to_pylist(), strict=True))
        questions = []
        for name, line in zip(table["name"].to_pylist(), table["number"].to_pylist(), strict=True):
            if name not in told:
                raise UserError(f"{listed}:{line}: {path} has no sentence for {name!r}; set {key}")
            questions.append(self._question.replace("{utterance}", told[name]))
        return pa.array(questions, pa.string())

    def _descriptions(self, table: pa.Table, listed: Path) -> pa.Array:
        path = find(
            self._root, [f"MERR_{self._grain}_grained.json"], {}, "dataset.layout.target=label"
        )
        key = _KEYS[self._grain]
        try:
            told = json.loads(read_text(path))
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON: {error}") from error
        texts = []
        for name, line in zip(table["name"].to_pylist(), table["number"].to_pylist(), strict=True):
            entry = told.get(name) if isinstance(told, dict) else None
            if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
                raise UserError(
                    f"{listed}:{line}: {path} has no {key} for {name!r}; "
                    "set dataset.layout.target=label"
                )
            texts.append(entry[key].strip())
        return pa.array(texts, pa.string())
