"""What to cut out of a recording; ``split_screen`` does it. No decoder is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cut:
    """A clip to make: a time span of one half of a split screen, with a sound of its own."""

    source: Path
    """The recording."""
    half: str
    """Which half of its picture: "left" or "right"."""
    start_s: float
    end_s: float
    sound: Path
    """The sound file of the clip, taken whole."""
    clip: Path
    """The mp4 to write."""
