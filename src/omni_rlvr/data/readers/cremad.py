"""CREMA-D: acted sentences, everything said by the file's name: ``1001_DFA_ANG_XX.flv``.

There is no official split. Ours is by speaker: actor 1001 + i is in test fold i mod K + 1, so no
voice or face of a test clip was trained on.
"""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.readers.official import labelled_examples
from omni_rlvr.media.files import VIDEO, has_suffix, located, walk
from omni_rlvr.types import UserError, require

_NAME = re.compile(r"(1[0-9]{3})_[A-Z]{3}_([A-Z]{3})_(?:LO|MD|HI|XX|X)")
_FIRST_ACTOR = 1001


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

    def __init__(
        self,
        *,
        split: str,
        root: str,
        fold: int,
        num_folds: int,
        sound: str,
        labels: LabelMap,
        question: str,
    ) -> None:
        require(sound in ("own", "wav"), "dataset.layout.sound", sound, "own or wav")
        self._split = split
        self._root = Path(root)
        self._fold = fold
        self._num_folds = num_folds
        self._sound = sound
        self._labels = labels
        self._question = question

    def read(self) -> ExampleTable:
        """Find the split's clips, in the order of their names."""
        folder = located(self._root / "VideoFlash")
        found = {path.stem: path for path in walk(folder).files if has_suffix(path.name, VIDEO)}
        matches = [(name, _NAME.fullmatch(name)) for name in sorted(found)]
        wanted = [(name, m[2]) for name, m in matches if m and self._is_wanted(int(m[1]))]
        if not wanted:
            raise UserError(
                f"dataset.root={self._root}: no CREMA-D clip of the split {self._split!r} is there "
                "(looked for VideoFlash/1001_DFA_ANG_XX.flv and the like)"
            )
        names = [name for name, _ in wanted]
        videos = [str(found[name].relative_to(self._root)) for name in names]
        columns = {
            "label": pa.array([code for _, code in wanted]),
            "video": pa.array(videos),
            "file": pa.array([str(self._root / path) for path in videos]).dictionary_encode(),
            "id": pa.array(names),
        }
        if self._sound == "wav":
            columns["audio"] = pa.array([f"AudioWAV/{name}.wav" for name in names])
        return labelled_examples(columns, self._root, self._labels, self._question)

    def _is_wanted(self, actor: int) -> bool:
        fold = (actor - _FIRST_ACTOR) % self._num_folds + 1
        return self._split == "all" or (fold == self._fold) == (self._split == "test")
