"""Which frames of a clip to look at, and which of its sound to listen to. Pure arithmetic; nothing
is read here.

The rule for frames is R1-Omni's: cut the clip into equal parts and take the middle of each one. A
sound that is longer than a model's window is listened to around these frames, so that picture and
sound are of the same time.
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


def sound_pieces(centres: np.ndarray, num_samples: int, window: int) -> list[slice]:
    """Choose ``window`` samples of a longer sound: an equal piece around each sampled frame.

    Pieces never overlap and keep their order; where frames are closer than a piece is long, the
    pieces follow each other. As the sound becomes as long as the window they become all of it.

    Args:
        centres: [N] the sample that belongs to each frame, never decreasing.
        num_samples: S, samples of the sound.
        window: W, samples to choose, at most S.

    Returns:
        N slices of the sound, W samples together.
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
