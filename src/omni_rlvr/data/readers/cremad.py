"""CREMA-D: acted sentences, annotated by their file names alone: ``1001_DFA_ANG_XX.flv``.

There is no official split. Here it is by speaker: actor 1001 + i is in test fold i mod K + 1, so
that no voice or face of a test clip occurs in training.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.readers.official import complete_examples, in_split
from omni_rlvr.media.files import VIDEO, has_suffix, located, walk
from omni_rlvr.types import UserError, require

_NAME = re.compile(r"(1[0-9]{3})_[A-Z]{3}_([A-Z]{3})_(?:LO|MD|HI|XX|X)")
_FIRST_ACTOR = 1001


@dataclass(frozen=True, kw_only=True)
class CremadReader:
    """Reads the file names in the folder ``VideoFlash``.

    Args:
        split: "train", "test", or "all".
        root: The folder with ``VideoFlash`` and ``AudioWAV``.
        fold: The number of the test fold, from 1.
        num_folds: The number K of folds.
        sound: "own" for the sound track of the flv file, "wav" for ``AudioWAV/NAME.wav`` (16 kHz).
        labels: Translates the codes ANG DIS FEA HAP NEU SAD.
        question: The question about every clip.
    """

    split: str
    root: str
    fold: int
    num_folds: int
    sound: str
    labels: LabelMap
    question: str

    def __post_init__(self) -> None:
        require(self.sound in ("own", "wav"), "dataset.layout.sound", self.sound, "own or wav")

    def read(self) -> ExampleTable:
        """Find the split's clips, in the order of their names."""
        folder = located(Path(self.root, "VideoFlash"))
        found = {path.stem: path for path in walk(folder).files if has_suffix(path.name, VIDEO)}
        matches = [(name, _NAME.fullmatch(name)) for name in sorted(found)]
        wanted = [(name, m[2]) for name, m in matches if m and self._is_wanted(int(m[1]))]
        if not wanted:
            raise UserError(
                f"dataset.root={self.root}: no CREMA-D clip of the split {self.split!r} is there "
                "(looked for VideoFlash/1001_DFA_ANG_XX.flv and the like)"
            )
        videos = [str(found[name].relative_to(self.root)) for name, _ in wanted]
        columns = {
            "label": [code for _, code in wanted],
            "video": videos,
            "file": pa.array([str(Path(self.root, path)) for path in videos]).dictionary_encode(),
            "id": [name for name, _ in wanted],
        }
        if self.sound == "wav":
            columns["audio"] = [f"AudioWAV/{name}.wav" for name, _ in wanted]
        return complete_examples(pa.table(columns), self.root, self.labels, self.question)

    def _is_wanted(self, actor: int) -> bool:
        fold = (actor - _FIRST_ACTOR) % self.num_folds + 1
        return in_split(self.split, fold == self.fold)
