"""Measure the length of a clip without decoding it, so that long uploads can be refused.

The header of a file may lack the length (as in recordings by browsers), or have only that of one
stream. Therefore the time stamps of all packets are read.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import av

from omni_rlvr.media.clip import probe_clip
from omni_rlvr.media.container import open_container, read_bytes
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.types import Clip


def measure_clip(video: Path | None, audio: Path | None, request: ClipRequest) -> Clip:
    """Open a clip as ``clip.probe_clip`` does, for ``sandbox.reader.ClipReader``.

    Args:
        video: As ``probe_clip``.
        audio: As ``probe_clip``.
        request: As ``probe_clip``, but ``want_audio`` is ignored: the sound must always have a
            decoder.

    Returns:
        As ``probe_clip``, but ``duration_s`` is that of the longest stream.

    Raises:
        MediaError: As ``probe_clip``.
    """
    clip = probe_clip(video, audio, replace(request, want_audio=True))
    lengths = [longest_s(read_bytes(path)) for path in (video, audio) if path is not None]
    return replace(clip, duration_s=max(clip.duration_s, *lengths))


def longest_s(data: bytes) -> float:
    """Measure the seconds from the first packet of any stream to the end of the last one.

    Args:
        data: The whole file; the result is 0 if FFmpeg cannot open it.
    """
    starts, ends = [], [0.0]
    with contextlib.suppress(av.FFmpegError, ValueError), open_container(data) as container:
        streams = [*container.streams.video, *container.streams.audio]
        for packet in container.demux(streams):
            time = packet.dts if packet.pts is None else packet.pts
            if time is None or packet.time_base is None:
                continue
            start = float(time * packet.time_base)
            starts.append(start)
            ends.append(start + float((packet.duration or 0) * packet.time_base))
    return max(ends) - min(starts, default=0.0)
