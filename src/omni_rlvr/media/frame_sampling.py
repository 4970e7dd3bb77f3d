"""Choose which frames of a clip, and which parts of its sound, a model gets. Pure arithmetic.

The number of frames is either fixed (R1-Omni's rule: the middle frame of each of equal parts) or
follows from a rate (Qwen's rule). Sound that is longer than a model's window is cut to pieces
around these frames, so that picture and sound cover the same times.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sampling:
    """A rule that chooses the frames of a clip; made by ``count`` or ``rate``."""

    at_least: int
    at_most: int
    multiple_of: int = 1
    fps: float | None = None
    """Frames a second; None for a fixed number, to which both limits are then set."""

    def __post_init__(self) -> None:
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"fps={self.fps} must be above 0")
        if self.multiple_of < 1 or not 1 <= self.at_least <= self.at_most:
            raise ValueError(
                f"at_least={self.at_least} must be at least 1 and at most at_most={self.at_most}, "
                f"and multiple_of={self.multiple_of} at least 1"
            )
        if self._up(self.at_least) > self._down(self.at_most):
            raise ValueError(
                f"no multiple of {self.multiple_of} is between at_least={self.at_least} and "
                f"at_most={self.at_most}"
            )

    @staticmethod
    def count(num_frames: int) -> Sampling:
        """Take the middle frame of each of ``num_frames`` equal parts; see ``uniform_indices``."""
        return Sampling(at_least=num_frames, at_most=num_frames)

    @staticmethod
    def rate(fps: float, *, at_least: int, at_most: int, multiple_of: int = 2) -> Sampling:
        """Take about ``fps`` frames a second, evenly in time from the first frame to the last.

        Args:
            fps: Frames a second, above 0.
            at_least: Fewest frames. A clip with fewer gives all it has, rounded down to a multiple;
                frames are repeated only if it has fewer than ``multiple_of``.
            at_most: Most frames.
            multiple_of: The number of frames is a multiple of this; 2 for a vision tower that
                takes frames in pairs.

        Reference:
            qwen-vl-utils, ``smart_nframes`` and ``_read_video_decord``.

        Note:
            The reference spaces frames evenly by number, this function by time, which is the same
            at a constant frame rate and correct at a variable one. The reference refuses a clip
            with fewer than ``multiple_of`` frames.
        """
        return Sampling(at_least=at_least, at_most=at_most, multiple_of=multiple_of, fps=fps)

    def num_frames(self, duration_s: float, num_frames_in_clip: int | None = None) -> int:
        """Count the frames to take of a clip.

        Args:
            duration_s: Length of its picture, seconds.
            num_frames_in_clip: Frames the clip has, at least 1; None if it has no picture.
        """
        if self.fps is None:
            return self.at_least
        # in the order of the reference: the limits, the frames of the clip, down to a multiple
        wanted = max(duration_s * self.fps, self._up(self.at_least))
        wanted = min(wanted, self._down(self.at_most))
        if num_frames_in_clip is not None:
            wanted = min(wanted, num_frames_in_clip)
        return max(self.multiple_of, self._down(int(wanted + _ROUNDING)))

    def indices(self, times_s: np.ndarray, duration_s: float) -> np.ndarray:
        """Choose frames of a clip.

        Args:
            times_s: [D] when each frame is shown, seconds, never decreasing; D at least 1.
            duration_s: Length of the picture, the last frame's time on the screen included.

        Returns:
            [F] int64 frame numbers in [0, D - 1], never decreasing; ``times_s[indices]`` are the
            times of the frames taken.
        """
        num_frames = self.num_frames(duration_s, len(times_s))
        if self.fps is None:
            return uniform_indices(len(times_s), num_frames)
        wanted_s = np.linspace(times_s[0], times_s[-1], num_frames)
        after = np.searchsorted(times_s, wanted_s).clip(max=len(times_s) - 1)
        before = (after - 1).clip(min=0)
        is_before_nearer = wanted_s - times_s[before] <= times_s[after] - wanted_s
        return np.where(is_before_nearer, before, after).astype(np.int64)

    def middles(self, duration_s: float) -> np.ndarray:
        """Return times for frames of a clip without a picture: [F], as shares of its length."""
        num_frames = self.num_frames(duration_s)
        return (np.arange(num_frames) + 0.5) / num_frames

    def _up(self, number: int) -> int:
        return -(-number // self.multiple_of) * self.multiple_of

    def _down(self, number: int) -> int:
        return number // self.multiple_of * self.multiple_of


_ROUNDING = 1e-6
"""Added to a number of frames before rounding down: 5.005 s at 30000 / 1001 frames a second are 150
frames, but 149.999... in floating point."""


def uniform_indices(num_frames_in_clip: int, num_frames: int) -> np.ndarray:
    """Pick the middle frame of each of ``num_frames`` equal parts of a clip.

    ``index_i = round_half_even((D - 1) / N * (i + 0.5) + 1e-6)``: D frames in the clip, N wanted.

    Args:
        num_frames_in_clip: D, at least 1.
        num_frames: N, at least 1. More than D repeats frames.

    Returns:
        [N] int64 frame numbers in [0, D - 1], never decreasing.

    Raises:
        ValueError: Either number is below 1.

    Reference:
        HumanMLLM/R1-Omni, ``humanomni/mm_utils.py``, ``frame_sample`` in mode ``uniform``.

    Note:
        The reference takes every frame when N is above 10000; here N is always N.
    """
    if num_frames_in_clip < 1 or num_frames < 1:
        raise ValueError(
            f"uniform_indices needs at least one frame in the clip and one wanted, got "
            f"num_frames_in_clip={num_frames_in_clip}, num_frames={num_frames}"
        )
    part_size = (num_frames_in_clip - 1) / num_frames
    middles = part_size * (np.arange(num_frames) + 0.5)
    return np.round(middles + 1e-6).astype(np.int64)


def sound_pieces(centres: np.ndarray, num_samples: int, window: int) -> list[slice]:
    """Choose ``window`` samples of a longer sound: an equal piece around each sampled frame.

    Pieces are in order and never overlap: a piece that would overlap the one before starts right
    after it. If the sound is as long as the window, the pieces are all of it.

    Args:
        centres: [N] the sample at the time of each frame, never decreasing.
        num_samples: S, the number of samples of the sound.
        window: W, the number of samples to choose, at most S.

    Returns:
        N slices of the sound, W samples in total.
    """
    edges = np.linspace(0, window, len(centres) + 1).round().astype(int)
    pieces, end = [], 0
    for centre, first, last in zip(centres, edges[:-1], edges[1:], strict=True):
        size = int(last - first)
        latest = num_samples - int(window - first)  # leaves room for the pieces that follow
        start = max(end, min(round(float(centre) - size / 2), latest))
        end = start + size
        pieces.append(slice(start, end))
    return pieces
