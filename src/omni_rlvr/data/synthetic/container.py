"""Writes frames and sound to an H.264 + AAC .mp4 file with PyAV."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def write_mp4(
    path: Path, frames: np.ndarray, fps: int, waveform: np.ndarray, sample_rate: int
) -> None:
    """Encodes a clip; the same input gives the same bytes.

    Args:
        path: where to write.
        frames: [F, H, W, 3] uint8 RGB.
        fps: frames per second.
        waveform: [S] float32 mono in [-1, 1].
        sample_rate: of the waveform, Hz.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream(
            "libx264", rate=fps, options={"preset": "superfast", "crf": "23", "threads": "1"}
        )
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        audio = container.add_stream("aac", rate=sample_rate, layout="mono")
        for picture in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(waveform[None, :], format="fltp", layout="mono")
        sound.sample_rate = sample_rate
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
