"""RAVDESS: acted speech, one file a trial, everything said by the file's name.

``modality-channel-emotion-intensity-statement-repetition-actor``: ``01-01-06-01-02-01-12.mp4``.
Speech only (channel 01). There is no official split: folds are lists of test actors in the YAML.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.readers.official import labelled_examples
from omni_rlvr.media.files import AUDIO, VIDEO, has_suffix, in_words, walk
from omni_rlvr.types import UserError, require

log = logging.getLogger(__name__)

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
"""Official words; a file's third number counts them from 1."""
_NAME = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-0[12]-0[12]-0[12]-([0-9]{2})")


class RavdessReader:
    """Reads the file names below the root, wherever the archives were unpacked.

    Args:
        split: "train", "test", or "all" actors.
        root: The folder with the ``Actor_NN`` folders, at any depth.
        fold: Whose actors are the test split.
        folds: Fold -> its test actors.
        sound: "own": audio-video files (01-*.mp4) with their track; "separate": silent video files
            (02-*.mp4) with the sound files (03-*.wav) of the same trial, as HiCMAE pairs them.
        labels: Translates the words of ``EMOTIONS``.
        question: What is asked of every clip.
    """

    def __init__(
        self,
        *,
        split: str,
        root: str,
        fold: int,
        folds: Mapping[int, Sequence[int]],
        sound: str,
        labels: LabelMap,
        question: str,
    ) -> None:
        require(sound in ("own", "separate"), "dataset.layout.sound", sound, "own or separate")
        self._test_actors = set(folds[fold])
        self._split = split
        self._root = Path(root)
        self._sound = sound
        self._labels = labels
        self._question = question

    def read(self) -> ExampleTable:
        """Find the split's clips, in the order of their names."""
        modality = "01" if self._sound == "own" else "02"
        found = walk(self._root)
        if found.left_out:
            log.warning("dataset.root=%s: left out: %s", self._root, in_words(found.left_out))
        clips = self._named(found.files, VIDEO, modality)
        sounds = {} if self._sound == "own" else self._named(found.files, AUDIO, "03")
        videos, audios, words = [], [], []
        for name, path in clips.items():
            _, _, emotion, actor = _parts(name)
            if not self._is_wanted(int(actor)):
                continue
            videos.append(path)
            words.append(EMOTIONS[int(emotion) - 1])
            if self._sound == "separate":
                audios.append(self._partner(name, path, sounds))
        if not videos:
            raise UserError(
                f"dataset.root={self._root}: no RAVDESS speech clip of the split {self._split!r} "
                f"is there (looked for {modality}-01-*.mp4, or another video suffix, in all "
                "folders, linked ones too)"
            )
        columns = {
            "label": pa.array(words),
            "video": pa.array(videos),
            "file": pa.array([str(self._root / path) for path in videos]).dictionary_encode(),
            "id": pa.array([Path(path).stem for path in videos]),
        }
        if audios:
            columns["audio"] = pa.array(audios)
        return labelled_examples(columns, self._root, self._labels, self._question)

    def _named(
        self, files: Sequence[Path], suffixes: Sequence[str], modality: str
    ) -> dict[str, str]:
        """Name -> path below the root; a file that was unpacked twice counts once."""
        found: dict[str, str] = {}
        for path in files:
            match = _NAME.fullmatch(path.stem) if has_suffix(path.name, suffixes) else None
            if match and match[1] == modality and match[2] == "01":
                found.setdefault(path.stem, str(path.relative_to(self._root)))
        return dict(sorted(found.items()))

    def _is_wanted(self, actor: int) -> bool:
        return self._split == "all" or (actor in self._test_actors) == (self._split == "test")

    def _partner(self, name: str, path: str, sounds: Mapping[str, str]) -> str:
        partner = f"03{name[2:]}"
        if partner not in sounds:
            raise UserError(
                f"{self._root / path}: there is no {partner}.wav below {self._root}; unpack the "
                "audio archive there too, or set dataset.layout.sound=own"
            )
        return sounds[partner]


def _parts(name: str) -> tuple[str, ...]:
    match = _NAME.fullmatch(name)
    assert match is not None  # it was found by this pattern
    return match.groups()
