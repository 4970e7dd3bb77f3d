"""Resize the height of tall frames first, as Pillow 13 does: rounding depends on the order.

A resize is one pass over rows and one over columns, each rounded to whole grey levels. Pillow 13
takes the order that costs less, earlier ones always rows before columns, and a pixel can differ by
a few levels. With the columns' pass taken here, every Pillow gives the same picture.
"""

from __future__ import annotations

import numpy as np
from PIL import Image


def shrink_tall(frames: np.ndarray, height: int, width: int, resample: int) -> np.ndarray:
    """Resize the height of frames whose height shrinks more than twice as much as their width.

    Args:
        frames: [F, H, W, 3] uint8.
        height: the wanted height in pixels.
        width: the wanted width in pixels.
        resample: a filter of ``PIL.Image.Resampling``.

    Returns:
        [F, height, W, 3] uint8, or ``frames`` themselves where rows go first.

    Reference:
        Pillow 13, ``ImagingResample``: which pass goes first.
    """
    shrinks, narrows = frames.shape[1] - height, frames.shape[2] - width
    if shrinks <= 0 or shrinks <= 2 * narrows:
        return frames
    size = (frames.shape[2], height)
    resized = (Image.fromarray(frame).resize(size, resample) for frame in frames)
    return np.stack([np.asarray(frame) for frame in resized])
