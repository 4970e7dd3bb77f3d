"""Decode frames of a clip as upright RGB: with decord, or with PyAV if decord cannot.

Frames are chosen by number in the table of ``container``, so that a variable frame rate needs no
care here. decord 0.6 turns phone video upright by itself; frames of PyAV are turned here.
"""

from __future__ import annotations

import io
import logging

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from omni_rlvr.media.container import open_container
from omni_rlvr.media.picture import Picture
from omni_rlvr.media.request import Backend
from omni_rlvr.types import MediaError

try:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
except (ImportError, OSError):  # no wheel for this machine, or one that cannot be loaded
    decord = None

_log = logging.getLogger(__name__)
_MIN_DECODED_SHARE = 0.5  # of the frames in the table; a file with fewer is broken


def read_frames(
    data: bytes, picture: Picture, indices: np.ndarray, *, backend: Backend
) -> np.ndarray:
    """Decode chosen frames.

    Args:
        data: The whole file.
        picture: Its picture stream, as ``container.look_into`` found it.
        indices: [F] int64 frame numbers in [0, D - 1], never decreasing; may repeat.
        backend: Which library decodes; PyAV replaces ``decord`` if that cannot read the file.

    Returns:
        [F, H, W, 3] uint8 RGB, upright.

    Raises:
        MediaError: Frames cannot be decoded; the caller adds the file's name.
    """
    wanted, back = np.unique(indices, return_inverse=True)
    frames = None
    if backend == "decord" and decord is not None and picture.decord_agrees:
        frames = _with_decord(data, picture, wanted)
    if frames is None:
        frames = _with_av(data, picture, wanted)
    return frames[back]


def _with_decord(data: bytes, picture: Picture, wanted: np.ndarray) -> np.ndarray | None:
    """Decode with decord; None if it fails or counts another number of frames."""
    try:
        reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
        if len(reader) != len(picture.pts):
            return None
        return reader.get_batch(wanted.tolist()).asnumpy()
    except (decord.DECORDError, RuntimeError, AssertionError) as error:
        _log.debug("decord cannot read this file, PyAV will: %s", error)
        return None


def _with_av(data: bytes, picture: Picture, wanted: np.ndarray) -> np.ndarray:
    """Decode from the start with PyAV, keeping the wanted frames.

    A frame that cannot be decoded is replaced by the next that can (at the end, by the last).
    """
    frames: list[np.ndarray] = []
    latest, num_decoded = None, 0
    with open_container(data) as container:
        stream = container.streams[picture.stream]
        assert isinstance(stream, av.VideoStream)
        stream.codec_context.thread_count = 1
        to_rgb = VideoReformatter()  # one for all frames: setting up a conversion costs 1 ms
        for latest in container.decode(stream):
            position = picture.number_of(latest.pts, num_decoded)
            num_decoded += 1
            while len(frames) < len(wanted) and wanted[len(frames)] <= position:
                frames.append(picture.orientation.upright(_rgb(latest, to_rgb)))
            if len(frames) == len(wanted):
                return np.stack(frames)
    if latest is None or num_decoded < _MIN_DECODED_SHARE * len(picture.pts):
        raise MediaError(f"only {num_decoded} of {len(picture.pts)} frames could be decoded")
    frames += [picture.orientation.upright(_rgb(latest, to_rgb))] * (len(wanted) - len(frames))
    return np.stack(frames)


def _rgb(frame: av.VideoFrame, to_rgb: VideoReformatter) -> np.ndarray:
    """Convert to [H, W, 3] uint8 RGB."""
    return to_rgb.reformat(frame, format="rgb24").to_ndarray()
