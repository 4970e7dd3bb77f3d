"""Resize frames to a size that keeps their proportions, the same with every version of Pillow.

A resize is one pass over rows and one over columns, each rounded to integers, so that the order of
the passes can change a pixel by a few levels. Pillow 13 takes the cheaper order, earlier versions
always rows first. ``shrink_tall`` does the pass over columns first where Pillow 13 would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

MAX_ASPECT_RATIO = 200
"""Longest side over shortest side of a frame; a model has no input size for longer strips."""


@dataclass(frozen=True)
class FrameSize:
    """A rule for the size of frames that keeps their proportions."""

    multiple_of: int
    """Height and width are multiples of this."""
    min_pixels: int
    """Least height times width."""
    max_pixels: int
    """Most height times width."""

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Compute the height and width that a frame is resized to.

        Raises:
            ValueError: The frame is a strip, more than 200 times as long as it is wide.

        Reference:
            qwen-vl-utils and transformers, ``smart_resize``.
        """
        if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
            raise ValueError(
                f"frames of {width} x {height} are more than {MAX_ASPECT_RATIO} times as long as "
                "they are wide"
            )
        unit = self.multiple_of
        rows, columns = round(height / unit), round(width / unit)
        if rows * columns * unit**2 > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            rows = max(1, math.floor(height / shrink / unit))
            columns = max(1, math.floor(width / shrink / unit))
        elif rows * columns * unit**2 < self.min_pixels:
            enlarge = math.sqrt(self.min_pixels / (height * width))
            rows = math.ceil(height * enlarge / unit)
            columns = math.ceil(width * enlarge / unit)
        return rows * unit, columns * unit

    def resized(self, frames: np.ndarray) -> np.ndarray:
        """Resize [F, H, W, 3] uint8 frames (bicubic); frames of the right size stay as they are."""
        height, width = self.of(*frames.shape[1:3])
        if (height, width) == frames.shape[1:3]:
            return frames
        bicubic = Image.Resampling.BICUBIC
        made = (Image.fromarray(frame).resize((width, height), bicubic) for frame in frames)
        return np.stack([np.asarray(frame) for frame in made])


def shrink_tall(frames: np.ndarray, height: int, width: int, resample: int) -> np.ndarray:
    """Resize the height of frames whose height shrinks more than twice as much as their width.

    Args:
        frames: [F, H, W, 3] uint8.
        height: The wanted height in pixels.
        width: The wanted width in pixels.
        resample: A filter of ``PIL.Image.Resampling``.

    Returns:
        [F, height, W, 3] uint8, or ``frames`` themselves if the pass over rows goes first.

    Reference:
        Pillow 13, ``ImagingResample``: which pass goes first.
    """
    shrinks, narrows = frames.shape[1] - height, frames.shape[2] - width
    if shrinks <= 0 or shrinks <= 2 * narrows:
        return frames
    size = (frames.shape[2], height)
    resized = (Image.fromarray(frame).resize(size, resample) for frame in frames)
    return np.stack([np.asarray(frame) for frame in resized])
