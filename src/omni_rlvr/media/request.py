"""What is read of a clip, as one value: which frames, at which rate its sound, what of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.resize import FrameSize

Backend = Literal["decord", "av"]


@dataclass(frozen=True)
class ClipRequest:
    """What to read of a clip; what reads clips takes it beside the files."""

    sampling: Sampling
    """Which frames are read."""
    sample_rate: int
    """Rate of the waveform, Hz."""
    want_video: bool
    """Whether to decode frames; without, ``Clip.frames`` is None."""
    want_audio: bool
    """Whether to decode sound; without, ``Clip.waveform`` is None."""
    window_s: float | None = None
    """Most seconds of sound that the model takes; of a longer sound only what lies around the
    sampled frames is kept, and a note says how much is not. None keeps all."""
    frame_size: FrameSize | None = None
    """How frames are resized before they leave the process that decodes them; None leaves them as
    they are in the file."""
    backend: Backend = "decord"
    """What decodes frames: ``decord`` (PyAV steps in where it cannot) or ``av``."""
