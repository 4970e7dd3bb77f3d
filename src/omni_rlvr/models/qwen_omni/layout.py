"""The order of a clip's tokens in a prompt, and their positions in time, height and width.

A picture token and a sound token of the same moment get the same position in time, so that picture
and sound are aligned. Only arrays, no token ids and no weights: a data worker computes this once a
prompt. Positions stay float32: bfloat16 has no odd numbers above 256, and Qwen3-Omni's positions of
a picture are fractions.

Reference:
    transformers, ``get_rope_index`` and ``replace_video_with_audio_token`` of both models.

Note:
    The reference orders placeholders by float64 times and gives them positions by float32 times.
    Here the order is by float64 times for both models. It can differ from the reference only if a
    picture token and a sound token have the same time to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omni_rlvr.models.qwen_omni.generations import Generation
from omni_rlvr.types import AudioShape, VideoShape

TEXT, VIDEO, AUDIO, VISION_OPENS, VISION_CLOSES, AUDIO_OPENS, AUDIO_CLOSES = range(7)
"""Kinds of tokens in a prompt."""
Block = tuple[VideoShape | None, AudioShape | None]
"""A picture, a sound, or both interleaved in time, between tokens that open and close it."""


@dataclass(frozen=True)
class Timing:
    """How a model turns time into positions."""

    generation: Generation
    positions_per_s: float
    """Positions a second; sound has one token for each position."""


def lay_out(
    timing: Timing, num_before: int, blocks: Sequence[Block], num_after: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lay out a prompt: text, clips, text.

    Args:
        timing: How the model turns time into positions.
        num_before: Number of tokens before the clips.
        blocks: The clips.
        num_after: Number of tokens after the clips.

    Returns:
        The kind of each token [P], and its position in time, height and width [3, P] float32.
    """
    joint = timing.generation.has_joint_brackets
    kinds, positions = [np.full(num_before, TEXT)], [_counted(num_before, 0)]
    start = np.float32(num_before)
    for video, audio in blocks:
        opens = [VISION_OPENS] * (video is not None) + [AUDIO_OPENS] * (audio is not None)
        closes = [AUDIO_CLOSES] * (audio is not None) + [VISION_CLOSES] * (video is not None)
        kind, position, num_last = _media(timing, video, audio)
        kinds += [np.array(opens), kind, np.array(closes)]
        positions.append(_brackets(len(opens), start, joint=joint))
        positions.append(position + _next(positions[-1]))
        # as in the reference, continue from the last piece, whose position may be smaller than
        # that of a longer sound or picture before it
        positions.append(_brackets(len(closes), _next(positions[-1][:, -num_last:]), joint=joint))
        start = _next(positions[-1])
    kinds.append(np.full(num_after, TEXT))
    positions.append(_counted(num_after, start))
    return np.concatenate(kinds), np.concatenate(positions, axis=1)


def picture_positions(timing: Timing, video: VideoShape) -> np.ndarray:
    """Compute the position in time of each step of a picture, from the first: [t] float32."""
    t, _, _, seconds = _grid(video)
    # in float32 and in this order, as the reference: rounding affects the truncation below
    times = (
        np.arange(t, dtype=np.float32) * np.float32(seconds) * np.float32(timing.positions_per_s)
    )
    return np.trunc(times) if timing.generation.has_whole_times else times


def time_axis_error_s(timing: Timing, video: VideoShape, frame_times_s: np.ndarray) -> float:
    """Compute how far apart in time picture and sound tokens at the same position are.

    The time of a picture's step is that of its first frame. The time of the sound token at the
    nearest position is its index / ``positions_per_s``. Both should be equal; a wrong rate, or
    positions that count tokens, makes them differ.

    Args:
        timing: How the model turns time into positions.
        video: The shape of the picture.
        frame_times_s: [F] the times of the picture's frames, two for each step, in seconds.

    Returns:
        The largest difference over all steps of the picture, in seconds; sound is assumed to be at
        least as long as the picture.
    """
    positions = picture_positions(timing, video)
    seen_s = np.asarray(frame_times_s, dtype=np.float64)[::2][: len(positions)]
    heard_s = np.round(positions) / timing.positions_per_s
    return float(np.abs(seen_s - heard_s).max())


def _media(
    timing: Timing, video: VideoShape | None, audio: AudioShape | None
) -> tuple[np.ndarray, np.ndarray, int]:
    """Lay out one block, without brackets.

    Returns:
        The kind of each token [n], its position [3, n] relative to the block's start, and the
        number of tokens in the last piece, from which the positions after the block continue.
    """
    kinds, positions, turns = [], [], []
    if video is not None:
        t, h, w, seconds = _grid(video)
        axes = (
            picture_positions(timing, video)[:, None, None],
            np.arange(h)[:, None],
            np.arange(w),
        )
        kinds.append(np.full(t * h * w, VIDEO))
        positions.append(np.stack(np.broadcast_arrays(*axes)).reshape(3, -1).astype(np.float32))
        turns.append(
            _turns(timing, np.repeat(np.arange(t) * seconds * timing.positions_per_s, h * w))
        )
    if audio is not None:
        kinds.append(np.full(audio.num_tokens, AUDIO))
        positions.append(_counted(audio.num_tokens, 0))
        turns.append(_turns(timing, np.arange(audio.num_tokens, dtype=np.float64)))
    kind, position, turn = (np.concatenate(parts, axis=-1) for parts in (kinds, positions, turns))
    if video is None or audio is None:
        return kind, position, len(kind)
    order = np.lexsort((kind, turn))  # by turn, and within a turn the picture first
    kind, turn = kind[order], turn[order]
    is_other = kind != kind[-1]
    if timing.generation.blocks_s is not None:
        is_other = is_other | (turn != turn[-1])
    others = is_other.nonzero()[0]
    return kind, position[:, order], len(kind) - (int(others[-1]) + 1 if len(others) else 0)


def _turns(timing: Timing, times: np.ndarray) -> np.ndarray:
    """Compute the sort key of tokens from their times in positions [n]: the time, or the block."""
    if timing.generation.blocks_s is None:
        return times
    size, turn, turns = int(timing.positions_per_s * timing.generation.blocks_s), 0, []
    for time in times.tolist():
        # as in the reference, advance at most one block with each token: if a picture skips a
        # block, its first token is put into the skipped block
        turn += time >= (turn + 1) * size
        turns.append(turn)
    return np.array(turns)


def _next(positions: np.ndarray) -> np.float32:
    """Return the position after the largest."""
    return positions.max() + np.float32(1)


def _brackets(size: int, start: np.float32, *, joint: bool) -> np.ndarray:
    """Return the positions of brackets: [3, size]."""
    return np.full((3, size), start) if joint else _counted(size, start)


def _counted(size: int, start: float | np.floating) -> np.ndarray:
    """Count up on all three axes: [3, size] float32."""
    return np.broadcast_to(np.arange(size, dtype=np.float32) + np.float32(start), (3, size))


def _grid(video: VideoShape) -> tuple[int, int, int, float]:
    assert video.grid is not None
    assert video.seconds_per_grid is not None
    return *video.grid, video.seconds_per_grid
