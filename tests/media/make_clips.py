"""Clips with known content, written with PyAV.

Frame i is grey of level ``level(i)`` with a red top left quarter, so that the frame number and the
orientation can be read off the pixels. Every channel carries the same sine at its own loudness, so
that the mean is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_MS = Fraction(1, 1000)
NUM_FRAMES = 25
FPS = 25
AMPLITUDES = {
    "mono": (0.3,),
    "stereo": (0.4, 0.2),
    "5.1": (0.3, 0.3, 0.3, 0.0, 0.3, 0.3),  # the fourth is the bass channel: codecs cut it
}
_QUALITY = {
    "libx264": {"crf": "8"},
    "libx265": {"crf": "8", "x265-params": "log-level=none:pools=1"},
    "libvpx-vp9": {"crf": "10", "deadline": "realtime", "cpu-used": "8"},
    "mpeg4": {"qmin": "1", "qmax": "2"},
}


@dataclass(frozen=True)
class Recipe:
    """What to write; None leaves a stream out."""

    picture: str | None = "libx264"
    sound: str | None = "aac"
    width: int = 96
    height: int = 64
    rate: int = 48000
    layout: str = "stereo"
    hz: float = 440.0
    sound_s: float = NUM_FRAMES / FPS
    rotation: int = 0
    matrix: tuple[int, int, int, int] | None = None
    rotate_tag: str | None = None
    times_ms: tuple[int, ...] = tuple(range(0, 1000 * NUM_FRAMES // FPS, 1000 // FPS))


def level(i: int) -> int:
    """Grey level of frame i: eight apart, so that a codec's error does not reach the next one."""
    return 24 + 8 * i


def write(path: Path, recipe: Recipe) -> Path:
    """Write a clip; the container follows from the ending of ``path``."""
    with av.open(str(path), "w") as container:
        if recipe.picture is not None:
            picture = container.add_stream(recipe.picture, rate=FPS)
            picture.width, picture.height = recipe.width, recipe.height
            even = recipe.width % 2 == 0 and recipe.height % 2 == 0
            picture.pix_fmt = "yuv420p" if even else "yuv444p"
            picture.options = _QUALITY[recipe.picture]
            picture.codec_context.thread_count = 1
            if recipe.picture == "mpeg4":
                picture.bit_rate = 4_000_000
            if recipe.times_ms != Recipe.times_ms:
                picture.time_base = picture.codec_context.time_base = _MS
            if recipe.rotation:
                picture.set_display_rotation(recipe.rotation)
            if recipe.matrix is not None:
                a, b, c, d = (65536 * entry for entry in recipe.matrix)
                picture.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
            if recipe.rotate_tag is not None:
                picture.metadata["rotate"] = recipe.rotate_tag
        if recipe.sound is not None:
            sound = container.add_stream(recipe.sound, rate=recipe.rate, layout=recipe.layout)
        if recipe.picture is not None:
            _write_picture(container, picture, recipe)
        if recipe.sound is not None:
            _write_sound(container, sound, recipe)
    return path


def sine(recipe: Recipe) -> np.ndarray:
    """The sound before any codec: [channels, samples] float32."""
    times_s = np.arange(round(recipe.rate * recipe.sound_s)) / recipe.rate
    wave = np.sin(2 * np.pi * recipe.hz * times_s)
    return (np.array(AMPLITUDES[recipe.layout])[:, None] * wave).astype(np.float32)


def _write_picture(container, stream, recipe: Recipe) -> None:
    for i, time_ms in enumerate(recipe.times_ms):
        image = np.full((recipe.height, recipe.width, 3), level(i), np.uint8)
        image[: recipe.height // 2, : recipe.width // 2] = (230, 20, 20)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.time_base, frame.pts = _MS, time_ms
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _write_sound(container, stream, recipe: Recipe) -> None:
    if recipe.sound_s == 0:
        container.start_encoding()
        return
    frame = av.AudioFrame.from_ndarray(sine(recipe), format="fltp", layout=recipe.layout)
    frame.sample_rate, frame.pts = recipe.rate, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
