"""Make what a page shows of a clip's file: filmstrip, thumbnail, the clip, waveform, spectrogram.

Pictures are small WebP files in ``data:`` addresses; the waveform is numbers, drawn on the page.
"""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image

from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sandbox.reader import ClipReader
from omni_rlvr.tasks.attribute.page.playable import MAX_S
from omni_rlvr.tasks.dataset.mel import LOUDNESS_DB, log_mel, mel_edges_hz
from omni_rlvr.types import Clip, MediaError

SHOW = "omni_rlvr.tasks.attribute.page.playable:show_clip"
"""The function that the reader's child process calls: it reads a clip and makes it playable."""
NUM_FRAMES = 8
STRIP_PIXELS, THUMB_PIXELS = 112, 56
"""Heights of the filmstrip and of the thumbnail."""
MAX_ASPECT = 1.8
"""Frames wider than this times their height are cropped at their sides in the strip."""
SAMPLE_RATE = 16_000
NUM_PEAKS = 240
MAX_COLUMNS = 480
"""Most columns of a spectrogram; a longer one is thinned by averaging."""
MARKS_HZ = (250, 1000, 4000)


def clip_media(reader: ClipReader, video: Path | None, audio: Path | None) -> dict[str, Any]:
    """Read one clip for a page.

    Args:
        reader: its child process calls ``SHOW``.
        video: the container, or None.
        audio: a sound file that replaces the container's track, or None.

    Returns:
        Only ``error`` if the clip cannot be read; else ``duration_s``, ``film`` (None without a
        picture), ``thumb``, ``sound`` (None without a sound track), and ``clip`` to be played.
    """
    names = " + ".join(str(path) for path in (video, audio) if path is not None)
    request = ClipRequest(Sampling.count(NUM_FRAMES), SAMPLE_RATE, video is not None, True)
    try:
        answer = reader.call((video, audio, request), {}, names, num_clips=2)
    except MediaError as error:
        return {"error": str(error)}
    assert isinstance(answer, tuple)  # this is what ``show_clip`` returns
    seen, made = answer
    return {
        "duration_s": round(seen.duration_s, 3),
        **_film(seen),
        "sound": None if seen.waveform is None else _sound(seen.waveform),
        "clip": {
            "mime": made.mime,
            "data": base64.b64encode(made.data).decode(),
            "cut_s": MAX_S if made.is_cut else None,
        },
    }


def _film(clip: Clip) -> dict[str, Any]:
    """Put the sampled frames side by side, with their times; the middle one is the thumbnail."""
    frames = clip.frames
    if frames is None:
        return {"thumb": None, "film": None}
    times = [] if clip.frame_times_s is None else clip.frame_times_s.tolist()
    strip = np.concatenate([_cut(frame, STRIP_PIXELS) for frame in frames], axis=1)
    return {
        "thumb": _picture(_cut(frames[len(frames) // 2], THUMB_PIXELS)),
        "film": {"src": _picture(strip), "times_s": [round(t, 2) for t in times]},
    }


def _cut(frame: np.ndarray, height: int) -> np.ndarray:
    """Make a frame [H, W, 3] ``height`` rows high, and not too wide."""
    picture = Image.fromarray(frame)
    over = max(0.0, picture.width - MAX_ASPECT * picture.height) / 2
    width = round(height * (picture.width - 2 * over) / picture.height)
    box = (over, 0, picture.width - over, picture.height)
    return np.asarray(picture.resize((max(1, width), height), Image.Resampling.LANCZOS, box=box))


def _sound(waveform: np.ndarray) -> dict[str, Any]:
    """Compute the waveform's extremes in percent of its peak, and its spectrogram with marks."""
    peak = max(float(np.abs(waveform).max()), 1e-6)
    parts = np.array_split(waveform, min(NUM_PEAKS, len(waveform)))
    ends = [[round(100 * float(end) / peak) for end in (p.min(), p.max())] for p in parts]
    edges = mel_edges_hz(SAMPLE_RATE)
    heights = np.interp(MARKS_HZ, edges, np.linspace(0, 1, len(edges)))
    marks = zip(MARKS_HZ, heights.tolist(), strict=True)
    return {
        "seconds": round(len(waveform) / SAMPLE_RATE, 3),
        "peak_db": round(20 * math.log10(peak), 1),
        "low": [low for low, _ in ends],
        "high": [high for _, high in ends],
        "mel": _picture(_coloured(log_mel(waveform, sample_rate=SAMPLE_RATE))),
        "marks": [{"hz": hz, "height": round(h, 4)} for hz, h in marks],
    }


def _coloured(mel: np.ndarray) -> np.ndarray:
    """[mels, columns] dB -> [mels, columns, 3] uint8, low tones at the bottom."""
    if mel.shape[1] > MAX_COLUMNS:
        mel = np.stack([p.mean(axis=1) for p in np.array_split(mel, MAX_COLUMNS, axis=1)], axis=1)
    low, high = LOUDNESS_DB
    scaled = np.clip((mel[::-1] - low) / (high - low), 0, 1)
    return (255 * colormaps["magma"](scaled)[..., :3]).round().astype(np.uint8)


def _picture(pixels: np.ndarray) -> str:
    """Encode pixels [H, W, 3] uint8 as a ``data:`` address."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="webp", quality=78)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
