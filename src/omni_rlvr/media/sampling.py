"""Which frames of a clip to look at. Pure arithmetic on frame numbers; nothing is read here.

The rule is R1-Omni's: cut the clip into equal parts and take the middle of each one.
"""

from __future__ import annotations

import numpy as np


def uniform_indices(num_frames_in_clip: int, num_frames: int) -> np.ndarray:
    """Pick the middle frame of each of ``num_frames`` equal parts of a clip.

    ``index_i = round_half_even((D - 1) / N * (i + 0.5) + 1e-6)``: D frames in the clip, N wanted.

    Args:
        num_frames_in_clip: D, at least 1.
        num_frames: N, at least 1. More than D repeats frames.

    Returns:
        [N] int64 frame numbers in [0, D - 1], never decreasing.

    Raises:
        ValueError: If either number is below 1.

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
