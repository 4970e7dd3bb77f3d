"""Write a clip with PyAV: H.264 + AAC in .mp4, or the sound alone in .m4a."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def write_clip(
    path: Path,
    frames: np.ndarray | None,
    fps: int,
    waveform: np.ndarray | None,
    sample_rate: int,
) -> None:
    """Encode a clip; the same input gives the same bytes.

    Args:
        path: where to write; its ending names the container.
        frames: [F, H, W, 3] uint8 RGB, or None for a clip without picture.
        fps: frames per second.
        waveform: [S] float32 mono in [-1, 1], or None for a clip without sound track.
        sample_rate: of the waveform, Hz.
    """
    options = {"preset": "superfast", "crf": "23", "threads": "1"}
    with av.open(str(path), "w") as container:
        video = audio = None
        if frames is not None:
            video = container.add_stream("libx264", rate=fps, options=options)
            video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        if waveform is not None:
            audio = container.add_stream("aac", rate=sample_rate, layout="mono")
        if video is not None and frames is not None:
            for picture in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(video.encode(None))
        if audio is not None and waveform is not None:
            sound = av.AudioFrame.from_ndarray(waveform[None, :], format="fltp", layout="mono")
            sound.sample_rate = sample_rate
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))
