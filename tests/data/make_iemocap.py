"""A miniature IEMOCAP as it is released: split screen AVIs, sentences as wav, evaluation files.

The left half of a picture is red, the right half blue; the brightness of frame i is ``level(i)``,
so that side and time can be read off the pixels. Every sentence has a sine of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import numpy as np
import soundfile

FPS = 10
NUM_FRAMES = 30
RATE = 16_000
Turn = tuple[str, str, float, float]
TURNS: dict[str, tuple[Turn, ...]] = {
    "Ses01F_impro05": (
        ("F000", "ang", 0.5, 1.3),
        ("M001", "exc", 1.0, 2.0),  # both speak for a while
        ("M002", "xxx", 2.0, 2.5),
    ),
    "Ses05M_script01_1b": (("F000", "neu", 0.25, 0.75), ("M001", "sad", 2.5, 3.0)),
}
"""Dialogue -> turn, label, start and end in seconds."""


def level(i: int) -> int:
    """Brightness of frame i: seven apart, so that a codec's error does not reach the next one."""
    return 40 + 7 * i


def write_iemocap(root: Path, turns: Mapping[str, Sequence[Turn]] = TURNS) -> Path:
    """Dialogues of two sessions, of the second with B-frames."""
    for dialogue, said_there in turns.items():
        session = root / f"Session{int(dialogue[3:5])}"
        sentences = session / "sentences" / "wav" / dialogue
        said = session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
        sentences.mkdir(parents=True)
        said.parent.mkdir(parents=True, exist_ok=True)
        rows = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for number, (turn, label, start_s, end_s) in enumerate(said_there):
            name = f"{dialogue}_{turn}"
            rows.append(f"[{start_s:.4f} - {end_s:.4f}]\t{name}\t{label}\t[2.5, 2.5, 2.5]")
            times_s = np.arange(round((end_s - start_s) * RATE)) / RATE
            sound = 0.4 * np.sin(2 * np.pi * (300 + 211 * number) * times_s)
            soundfile.write(sentences / f"{name}.wav", sound, RATE)
        said.write_text("\n".join(rows))
        write_split_screen(recording(root, dialogue), with_b_frames=session.name == "Session5")
    return root


def recording(root: Path, dialogue: str) -> Path:
    """Where a dialogue's AVI lies."""
    return root / f"Session{int(dialogue[3:5])}" / "dialog/avi/DivX" / f"{dialogue}.avi"


def write_split_screen(path: Path, *, with_b_frames: bool) -> None:
    """Two actors side by side, 50 x 30 pixels each, and noise, as it is none of the sentences."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        options = {"qmin": "1", "qmax": "1", "g": "10", "bf": str(int(with_b_frames))}
        picture = out.add_stream("mpeg4", rate=FPS, options=options)
        picture.width, picture.height, picture.pix_fmt = 100, 30, "yuv420p"
        picture.bit_rate = 4_000_000
        sound = out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for i in range(NUM_FRAMES):
            image = np.zeros((30, 100, 3), np.uint8)
            image[:, :50, 0] = level(i)
            image[:, 50:, 2] = level(i)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = i
            out.mux(picture.encode(frame))
        out.mux(picture.encode(None))
        noise = np.random.default_rng(0).integers(-9000, 9000, (1, RATE * NUM_FRAMES // FPS))
        samples = av.AudioFrame.from_ndarray(noise.astype(np.int16), format="s16", layout="mono")
        samples.sample_rate = RATE
        out.mux(sound.encode(samples))
        out.mux(sound.encode(None))
