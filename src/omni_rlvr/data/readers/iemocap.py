"""IEMOCAP: two actors in dialogue; ``dialog/EmoEvaluation/*.txt`` lists utterances and labels.

The official sound is one file for each utterance (``sentences/wav``). The official video is one
recording for each dialogue, a split screen with one actor in each half (``dialog/avi/DivX``).
``task=prepare`` cuts the clip of each utterance from it, only the speaker's half, and writes it to
``dataset.layout.clips``; without that folder, examples have sound only. Recordings may also be in
another container (``.mp4``) or another folder below ``dialog``. Session k is test fold k.
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
from omni_rlvr.data.cutting import Cut
from omni_rlvr.data.readers.official import complete_examples, in_split
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
    def sound(self) -> str:
        """The path of its sound file below the root."""
        return f"Session{self.session}/sentences/wav/{_dialogue(self.name)}/{self.name}.wav"

    @property
    def cues(self) -> dict[str, str]:
        """The speaker's half of the split screen, and the start and end in seconds, as text."""
        return {"speaker_side": self.side, "start_s": self.start_s, "end_s": self.end_s}

    @property
    def side(self) -> str:
        """The half of the split screen that shows the speaker."""
        return "left" if self.name[5] == self.name[-4] else "right"


@dataclass(frozen=True, kw_only=True)
class IemocapReader:
    """Reads the evaluation files of all sessions.

    Args:
        split: "train", "test", or "all".
        root: The folder with ``Session1`` to ``Session5``.
        fold: The session that is the test split.
        clips: The folder below the root with the cut clips ``Ses01F_impro05_F019.mp4``.
        labels: Translates the codes ang hap exc sad neu fru ...; utterances with a code that maps
            to null are left out.
        question: The question about every clip; ``{side}`` in it becomes left or right.
    """

    split: str
    root: str
    fold: int
    clips: str
    labels: LabelMap
    question: str

    def read(self) -> ExampleTable:
        """Read and validate the split's utterances, in the order of the files."""
        return self._read(with_clips=Path(self.root, self.clips).is_dir())

    def cuts(self) -> list[Cut]:
        """List the clips to cut, one for each utterance of the split, see ``data.cutting``."""
        if not self._said():
            return []
        examples = self._read(with_clips=True)
        recordings = {
            d: _recording(Path(self.root), d) for d in {_dialogue(e.id) for e in examples}
        }
        return [_cut(example, recordings[_dialogue(example.id)]) for example in examples]

    def _read(self, *, with_clips: bool) -> ExampleTable:
        said = self._said()
        if not said:
            raise UserError(
                f"dataset.root={self.root}: no IEMOCAP utterance of the split {self.split!r} is "
                "there (looked for Session*/dialog/EmoEvaluation/Ses*.txt)"
            )
        videos = [f"{self.clips}/{u.name}.mp4" if with_clips else None for u in said]
        columns = {
            "label": [u.label for u in said],
            "video": pa.array(videos, pa.string()),
            "audio": [u.sound for u in said],
            "id": [u.name for u in said],
            "cues": [json.dumps(u.cues) for u in said],
            "question": [self.question.replace("{side}", u.side) for u in said],
            "file": pa.array([str(u.path) for u in said]).dictionary_encode(),
            "number": [u.line for u in said],
        }
        return complete_examples(pa.table(columns), self.root, self.labels, self.question)

    def _said(self) -> list[_Utterance]:
        return [u for u in self._utterances() if in_split(self.split, u.session == self.fold)]

    def _utterances(self) -> Iterator[_Utterance]:
        for path in sorted(Path(self.root).glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt")):
            for number, line in enumerate(read_text(path, western=True).splitlines(), 1):
                match = _LINE.fullmatch(line)
                if match:
                    start_s, end_s, name, session, label = match.groups()
                    yield _Utterance(path, number, start_s, end_s, name, int(session), label)
                elif line.startswith("[") and "Ses" in line:
                    raise UserError(
                        f"{path}:{number}: {line!r} is not [start - end], name, label, [v, a, d]"
                    )


def _dialogue(name: str) -> str:
    """Return the name of the dialogue that an utterance is part of."""
    return name.rpartition("_")[0]


def _recording(root: Path, dialogue: str) -> Path:
    """Find the video of a dialogue; if there is none, return the official path."""
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
