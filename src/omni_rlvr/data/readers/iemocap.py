"""IEMOCAP: two actors in dialogue; utterances and votes in ``dialog/EmoEvaluation/*.txt``.

The official sound is one file an utterance (``sentences/wav``). The official video is one split
screen a dialogue (``dialog/avi/DivX``): ``task=prepare`` cuts the clips of single utterances from
it, the speaker's half alone, to ``dataset.layout.clips``; without that folder an example is its
sound alone. Recordings in another container (``.mp4``) or another folder below ``dialog`` are found
too. Session k is test fold k.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.labels import LabelMap
from omni_rlvr.data.annotations.rows import read_text
from omni_rlvr.data.cuts import Cut
from omni_rlvr.data.readers.official import labelled_examples
from omni_rlvr.media.files import located, video_of, walk
from omni_rlvr.types import Example, UserError

_LINE = re.compile(r"\[([0-9.]+) - ([0-9.]+)\]\t(Ses(0[1-5])[FM]_\w+_[FM]\d+)\t(\w+)\t\[.*\]\s*")


@dataclass(frozen=True)
class _Utterance:
    path: Path
    line: int
    start_s: str
    end_s: str
    name: str
    session: int
    label: str

    @property
    def dialogue(self) -> str:
        return _dialogue(self.name)

    @property
    def side(self) -> str:
        """Where the speaker is on the split screen."""
        return "left" if self.name[5] == self.name[-4] else "right"


class IemocapReader:
    """Reads the evaluation files of all sessions.

    Args:
        split: "train", "test", or "all".
        root: The folder with ``Session1`` to ``Session5``.
        fold: The session that is the test split.
        clips: The folder below the root with the cut clips ``Ses01F_impro05_F019.mp4``.
        labels: Translates the codes ang hap exc sad neu fru ...; those mapped to null are left out.
        question: What is asked of every clip; ``{side}`` in it becomes left or right.
    """

    def __init__(
        self, *, split: str, root: str, fold: int, clips: str, labels: LabelMap, question: str
    ) -> None:
        self._split = split
        self._root = Path(root)
        self._fold = fold
        self._clips = clips
        self._labels = labels
        self._question = question

    def read(self) -> ExampleTable:
        """Read and validate the split's utterances, in the order of the files."""
        return self._read(with_clips=(self._root / self._clips).is_dir())

    def cuts(self) -> list[Cut]:
        """How the clip of each of these utterances is cut from its dialogue; none, no cuts."""
        if not self._said():
            return []
        examples = self._read(with_clips=True)
        recordings = {d: _recording(self._root, d) for d in {_dialogue(e.id) for e in examples}}
        return [_cut(example, recordings[_dialogue(example.id)]) for example in examples]

    def _read(self, *, with_clips: bool) -> ExampleTable:
        said = self._said()
        if not said:
            raise UserError(
                f"dataset.root={self._root}: no IEMOCAP utterance of the split {self._split!r} is "
                "there (looked for Session*/dialog/EmoEvaluation/Ses*.txt)"
            )
        columns = {
            "label": pa.array([u.label for u in said]),
            "video": pa.array([self._video(u) if with_clips else None for u in said], pa.string()),
            "audio": pa.array([_sound(u) for u in said]),
            "id": pa.array([u.name for u in said]),
            "cues": pa.array([json.dumps(_cues(u)) for u in said]),
            "question": pa.array([self._question.replace("{side}", u.side) for u in said]),
            "file": pa.array([str(u.path) for u in said]).dictionary_encode(),
            "number": pa.array([u.line for u in said], pa.int64()),
        }
        return labelled_examples(columns, self._root, self._labels, self._question)

    def _said(self) -> list[_Utterance]:
        return [u for u in self._utterances() if self._is_wanted(u.session)]

    def _utterances(self) -> Iterator[_Utterance]:
        for path in sorted(self._root.glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt")):
            for number, line in enumerate(read_text(path, western=True).splitlines(), 1):
                match = _LINE.fullmatch(line)
                if match:
                    start_s, end_s, name, session, label = match.groups()
                    yield _Utterance(path, number, start_s, end_s, name, int(session), label)
                elif line.startswith("[") and "Ses" in line:
                    raise UserError(
                        f"{path}:{number}: {line!r} is not [start - end], name, label, [v, a, d]"
                    )

    def _is_wanted(self, session: int) -> bool:
        return self._split == "all" or (session == self._fold) == (self._split == "test")

    def _video(self, utterance: _Utterance) -> str:
        return f"{self._clips}/{utterance.name}.mp4"


def _sound(utterance: _Utterance) -> str:
    folder = f"Session{utterance.session}/sentences/wav/{utterance.dialogue}"
    return f"{folder}/{utterance.name}.wav"


def _cues(utterance: _Utterance) -> dict[str, str]:
    return {
        "speaker_side": utterance.side,
        "start_s": utterance.start_s,
        "end_s": utterance.end_s,
    }


def _dialogue(name: str) -> str:
    """Name the dialogue of an utterance."""
    return name.rpartition("_")[0]


def _recording(root: Path, dialogue: str) -> Path:
    """Find a dialogue's video; where it is released to be, if it is nowhere."""
    folder = root / f"Session{int(dialogue[3:5])}" / "dialog"
    official = folder / "avi" / "DivX"
    released = located(official / f"{dialogue}.avi")
    if released.exists():
        return released
    below = (path for path in walk(folder).folders if path.name != "EmoEvaluation")
    return video_of((official, *below), dialogue) or released


def _cut(example: Example, recording: Path) -> Cut:
    assert example.video is not None  # read with clips
    assert example.audio is not None
    return Cut(
        source=recording,
        half=str(example.cues["speaker_side"]),
        start_s=float(example.cues["start_s"]),
        end_s=float(example.cues["end_s"]),
        sound=example.audio,
        clip=example.video,
    )
