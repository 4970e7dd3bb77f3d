"""A processor whose clips differ in shape, and whose positions have three axes: no model needs it.

A frame takes one token and so does each tenth of a second of sound; a question takes one a letter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from omni_rlvr.types import AudioShape, Clip, Example, Sample, VideoShape

RATE_HZ = 1000


class StretchingProcessor:
    """Clips take as many tokens as they are long; picture and sound are interleaved in time."""

    pad_token_id = 0

    def video(self, frames: np.ndarray, times_s: np.ndarray) -> tuple[Tensor, VideoShape]:
        step_s = float(np.diff(times_s).mean())
        pixels = torch.from_numpy(frames).float().mean(dim=(1, 2))
        return pixels, VideoShape(len(frames), (len(frames), 1, 1), step_s)

    def audio(self, waveform: np.ndarray) -> tuple[Tensor, AudioShape]:
        whole = len(waveform) // 100
        return torch.from_numpy(waveform[: whole * 100]).view(whole, 100), AudioShape(whole)

    def prompt(
        self, question: str, video: VideoShape | None, audio: AudioShape | None
    ) -> tuple[list[int], Tensor]:
        seen = [] if video is None else [i * video.seconds_per_grid for i in range(video.grid[0])]
        heard = [] if audio is None else [0.1 * i for i in range(audio.num_tokens)]
        media = sorted([(time, -201) for time in seen] + [(time, -202) for time in heard])
        first = media[-1][0] + 1 if media else 0.0
        asked = [(first + i, ord(letter)) for i, letter in enumerate(question)]
        times = torch.tensor([time for time, _ in media + asked], dtype=torch.float32)
        return [token for _, token in media + asked], times.expand(3, -1).clone()

    def blank(self, shape: VideoShape | AudioShape) -> Tensor:
        return torch.zeros(shape.num_tokens, 3 if isinstance(shape, VideoShape) else 100)

    def target_ids(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def clip_of(
    name: str, *, num_frames: int = 0, step_s: float = 0.5, sound_s: float = 0.0, question: str = ""
) -> Sample:
    """Make a clip of so many frames and so much sound; none of what is 0."""
    rng = np.random.default_rng(sum(name.encode()))
    frames = rng.integers(256, size=(num_frames, 4, 4, 3), dtype=np.uint8) if num_frames else None
    wave = rng.uniform(-1, 1, round(sound_s * RATE_HZ)).astype(np.float32) if sound_s else None
    times_s = step_s * np.arange(num_frames) if num_frames else None
    example = Example(name, question or f"who is {name}?", name, name, None)
    return Sample(example, Clip(frames, wave, 1.0, times_s))


def without_parts(samples: Sequence[Sample], *, video: Sequence[bool], audio: Sequence[bool]):
    """Make the samples anew as if their files had no picture, or no sound."""
    parts = zip(samples, video, audio, strict=True)
    return [
        Sample(
            s.example,
            Clip(
                None if no_video else s.clip.frames,
                None if no_audio else s.clip.waveform,
                1.0,
                None if no_video else s.clip.frame_times_s,
            ),
        )
        for s, no_video, no_audio in parts
    ]
