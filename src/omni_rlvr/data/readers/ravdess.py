"""RAVDESS: acted speech, one file for each trial, annotated by its file name alone.

``modality-channel-emotion-intensity-statement-repetition-actor``: ``01-01-06-01-02-01-12.mp4``.
Speech only (channel 01). There is no official split: folds are lists of test actors in the YAML.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.readers.official import complete_examples, in_split
from omni_rlvr.media.files import AUDIO, VIDEO, has_suffix, in_words, walk
from omni_rlvr.types import UserError, require

log = logging.getLogger(__name__)

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""The official words; the third number in a file name is the place of one, counted from 1."""
_NAME = re.compile(r"(0[1-3])-(0[12])-0[1-8]-0[12]-0[12]-0[12]-[0-9]{2}")


@dataclass(frozen=True, kw_only=True)
class RavdessReader:
    """Reads the file names below the root, in whatever folders the archives were unpacked.

    Args:
        split: "train", "test", or "all" actors.
        root: The folder with the ``Actor_NN`` folders, at any depth.
        fold: The fold whose actors are the test split.
        folds: Fold -> its test actors.
        sound: "own" for audio-video files (01-*.mp4) with their own sound, "separate" for silent
            video files (02-*.mp4) with the sound files (03-*.wav) of the same trial, as in HiCMAE.
        labels: Translates the words of ``EMOTIONS``.
        question: The question about every clip.
    """

    split: str
    root: str
    fold: int
    folds: Mapping[int, Sequence[int]]
    sound: str
    labels: LabelMap
    question: str

    def __post_init__(self) -> None:
        known = self.sound in ("own", "separate")
        require(known, "dataset.layout.sound", self.sound, "own or separate")
        require(self.fold in self.folds, "dataset.fold", self.fold, "a key of layout.test_actors")

    def read(self) -> ExampleTable:
        """Find the split's clips, in the order of their names."""
        modality = "01" if self.sound == "own" else "02"
        root = Path(self.root)
        found = walk(root)
        if found.left_out:
            log.warning("dataset.root=%s: left out: %s", self.root, in_words(found.left_out))
        clips = self._named(found.files, VIDEO, modality)
        sounds = {} if self.sound == "own" else self._named(found.files, AUDIO, "03")
        wanted = {name: path for name, path in clips.items() if self._is_wanted(name)}
        if not wanted:
            raise UserError(
                f"dataset.root={self.root}: no RAVDESS speech clip of the split {self.split!r} "
                f"is there (looked for {modality}-01-*.mp4, or another video suffix, in all "
                "folders, linked ones too)"
            )
        columns = {
            "label": [EMOTIONS[int(name.split("-")[2]) - 1] for name in wanted],
            "video": list(wanted.values()),
            "file": pa.array([str(root / path) for path in wanted.values()]).dictionary_encode(),
            "id": list(wanted),
        }
        if self.sound == "separate":
            columns["audio"] = [self._partner(*clip, sounds) for clip in wanted.items()]
        return complete_examples(pa.table(columns), self.root, self.labels, self.question)

    def _named(
        self, files: Sequence[Path], suffixes: Sequence[str], modality: str
    ) -> dict[str, str]:
        """Map names to paths below the root; a file that was unpacked twice counts once."""
        found: dict[str, str] = {}
        for path in files:
            match = _NAME.fullmatch(path.stem) if has_suffix(path.name, suffixes) else None
            if match and match[1] == modality and match[2] == "01":
                found.setdefault(path.stem, str(path.relative_to(self.root)))
        return dict(sorted(found.items()))

    def _is_wanted(self, name: str) -> bool:
        return in_split(self.split, int(name.split("-")[6]) in self.folds[self.fold])

    def _partner(self, name: str, path: str, sounds: Mapping[str, str]) -> str:
        partner = f"03{name[2:]}"
        if partner not in sounds:
            raise UserError(
                f"{Path(self.root, path)}: there is no {partner}.wav below {self.root}; unpack the "
                "audio archive there too, or set dataset.layout.sound=own"
            )
        return sounds[partner]
