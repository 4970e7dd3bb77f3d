"""IEMOCAP: two actors in dialogue; utterances and votes in ``dialog/EmoEvaluation/*.txt``.

The official sound is one file an utterance (``sentences/wav``). The official video is one split
screen a dialogue (``dialog/avi/DivX``): ``task=prepare`` cuts the clips of single utterances from
it, the speaker's half alone, to ``dataset.layout.clips``; without that folder an example is its
sound alone. Session k is test fold k.
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
from omni_rlvr.data.readers.official import in_split, labelled_examples
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
        """The path of the sound file, below the root."""
        dialogue = self.name.rpartition("_")[0]
        return f"Session{self.session}/sentences/wav/{dialogue}/{self.name}.wav"

    @property
    def side(self) -> str:
        """Where the speaker is on the split screen."""
        return "left" if self.name[5] == self.name[-4] else "right"

    @property
    def cues(self) -> dict[str, str]:
        """What is known of the utterance besides its label."""
        return {"speaker_side": self.side, "start_s": self.start_s, "end_s": self.end_s}


@dataclass(kw_only=True)
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

    split: str
    root: Path
    fold: int
    clips: str
    labels: LabelMap
    question: str

    def __post_init__(self) -> None:
        self.root = Path(self.root)  # a config holds text

    def read(self) -> ExampleTable:
        """Read and validate the split's utterances, in the order of the files."""
        return self._read(with_clips=(self.root / self.clips).is_dir())

    def cuts(self) -> list[Cut]:
        """Return how the clip of each utterance is cut from the recording of its dialogue."""
        if not self._said():
            return []
        return [self._cut(example) for example in self._read(with_clips=True)]

    def _read(self, *, with_clips: bool) -> ExampleTable:
        said = self._said()
        if not said:
            raise UserError(
                f"dataset.root={self.root}: no IEMOCAP utterance of the split {self.split!r} is "
                "there (looked for Session*/dialog/EmoEvaluation/Ses*.txt)"
            )
        columns = {
            "label": pa.array([u.label for u in said]),
            "audio": pa.array([u.sound for u in said]),
            "id": pa.array([u.name for u in said]),
            "cues": pa.array([json.dumps(u.cues) for u in said]),
            "question": pa.array([self.question.replace("{side}", u.side) for u in said]),
            "file": pa.array([str(u.path) for u in said]).dictionary_encode(),
            "number": pa.array([u.line for u in said], pa.int64()),
        }
        if with_clips:
            columns["video"] = pa.array([f"{self.clips}/{u.name}.mp4" for u in said])
        return labelled_examples(columns, self.root, self.labels, self.question)

    def _cut(self, example: Example) -> Cut:
        assert example.video is not None  # read with clips
        assert example.audio is not None
        dialogue = example.id.rpartition("_")[0]
        session = self.root / f"Session{int(dialogue[3:5])}"
        return Cut(
            source=session / "dialog" / "avi" / "DivX" / f"{dialogue}.avi",
            half=str(example.cues["speaker_side"]),
            start_s=float(example.cues["start_s"]),
            end_s=float(example.cues["end_s"]),
            sound=example.audio,
            clip=example.video,
        )

    def _said(self) -> list[_Utterance]:
        return [
            utterance
            for utterance in self._utterances()
            if in_split(self.split, is_test=utterance.session == self.fold)
        ]

    def _utterances(self) -> Iterator[_Utterance]:
        for path in sorted(self.root.glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt")):
            for number, line in enumerate(read_text(path, western=True).splitlines(), 1):
                match = _LINE.fullmatch(line)
                if match:
                    start_s, end_s, name, session, label = match.groups()
                    yield _Utterance(path, number, start_s, end_s, name, int(session), label)
                elif line.startswith("[") and "Ses" in line:
                    raise UserError(
                        f"{path}:{number}: {line!r} is not [start - end], name, label, [v, a, d]"
                    )
