"""CREMA-D: acted sentences, everything said by the file's name: ``1001_DFA_ANG_XX.flv``.

There is no official split. Ours is by speaker: actor 1001 + i is in test fold i mod K + 1, so no
voice or face of a test clip was trained on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.readers.official import in_split, labelled_examples
from omni_rlvr.media.files import VIDEO, has_suffix, located, walk
from omni_rlvr.types import UserError, require

_NAME = re.compile(r"(1[0-9]{3})_[A-Z]{3}_([A-Z]{3})_(?:LO|MD|HI|XX|X)")
_FIRST_ACTOR = 1001


@dataclass(kw_only=True)
class CremadReader:
    """Reads the file names of ``VideoFlash``.

    Args:
        split: "train", "test", or "all".
        root: The folder with ``VideoFlash`` and ``AudioWAV``.
        fold: The test fold, from 1.
        num_folds: K.
        sound: "own": the track of the flv file; "wav": ``AudioWAV/NAME.wav`` (16 kHz).
        labels: Translates the codes ANG DIS FEA HAP NEU SAD.
        question: What is asked of every clip.
    """

    split: str
    root: Path
    fold: int
    num_folds: int
    sound: str
    labels: LabelMap
    question: str

    def __post_init__(self) -> None:
        require(self.sound in ("own", "wav"), "dataset.layout.sound", self.sound, "own or wav")
        self.root = Path(self.root)  # a config holds text

    def read(self) -> ExampleTable:
        """Find the split's clips, in the order of their names."""
        folder = located(self.root / "VideoFlash")
        found = {path.stem: path for path in walk(folder).files if has_suffix(path.name, VIDEO)}
        matches = [(name, _NAME.fullmatch(name)) for name in sorted(found)]
        wanted = [(name, m[2]) for name, m in matches if m and self._is_wanted(int(m[1]))]
        if not wanted:
            raise UserError(
                f"dataset.root={self.root}: no CREMA-D clip of the split {self.split!r} is there "
                "(looked for VideoFlash/1001_DFA_ANG_XX.flv and the like)"
            )
        names = [name for name, _ in wanted]
        videos = [str(found[name].relative_to(self.root)) for name in names]
        columns = {
            "label": pa.array([code for _, code in wanted]),
            "video": pa.array(videos),
            "file": pa.array([str(self.root / path) for path in videos]).dictionary_encode(),
            "id": pa.array(names),
        }
        if self.sound == "wav":
            columns["audio"] = pa.array([f"AudioWAV/{name}.wav" for name in names])
        return labelled_examples(columns, self.root, self.labels, self.question)

    def _is_wanted(self, actor: int) -> bool:
        fold = (actor - _FIRST_ACTOR) % self.num_folds + 1
        return in_split(self.split, is_test=fold == self.fold)
