"""The settings for reading clips as one value: which frames and which sound, at which rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.resize import FrameSize

Backend = Literal["decord", "av"]


@dataclass(frozen=True)
class ClipRequest:
    """What to read of a clip; functions that read clips take it together with the files."""

    sampling: Sampling
    """Which frames are read."""
    sample_rate: int
    """Rate of the waveform, Hz."""
    want_video: bool
    """Whether to decode frames; without, ``Clip.frames`` is None."""
    want_audio: bool
    """Whether to decode sound; without, ``Clip.waveform`` is None."""
    window_s: float | None = None
    """Most seconds of sound that the model takes. Longer sound is cut to pieces around the sampled
    frames, and a note says how much was cut. None keeps all sound."""
    frame_size: FrameSize | None = None
    """How to resize frames in the process that decodes them; None keeps their size."""
    backend: Backend = "decord"
    """What decodes frames: ``decord`` (with PyAV for files that decord cannot read) or ``av``."""
