"""The picture stream of a file: the time of every frame, which way up it is, can it be read.

One pass over the packets; one frame is decoded, since only frames tell their orientation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from omni_rlvr.media.orientation import UPRIGHT, Orientation, of_matrix, of_tags
from omni_rlvr.types import MediaError


@dataclass(frozen=True)
class Picture:
    """The picture stream of a file."""

    stream: int
    """Its number among all streams."""
    pts: np.ndarray
    """[D] int64, presentation time of each frame in stream ticks, in the order shown."""
    times_s: np.ndarray
    """[D] float64, the same in seconds from the start of the file."""
    duration_s: float
    """From the moment the first frame appears until the last one goes."""
    has_pts: bool
    """Whether each packet carried its own presentation time (AVI packets may not)."""
    orientation: Orientation
    """Which way up decoded frames are."""
    decord_agrees: bool
    """Whether decord shows the same: no second picture or cover, no orientation it overlooks."""
    fault: str | None
    """Why its frames cannot be read, and what to do; None if they can."""


def need_readable(picture: Picture, path: Path) -> None:
    """Refuse a picture whose frames cannot be read.

    Raises:
        MediaError: It has a fault, named with the file.
    """
    if picture.fault is not None:
        raise MediaError(f"{path}: its picture {picture.fault}")


def find_picture(container: av.container.InputContainer) -> Picture | None:
    """Find the picture of an opened file, covers left out; None if there is none."""
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        return None
    best = container.streams.best("video")
    stream = best if best in streams else streams[0]
    first = _FirstFrame(stream)
    stamps, durations, has_pts = list[int | None](), list[int](), True
    for packet in container.demux(stream):
        first.look_at(packet)
        if packet.size and not packet.is_discard:
            stamps.append(packet.dts if packet.pts is None else packet.pts)
            durations.append(packet.duration or 0)
            has_pts &= packet.pts is not None
    if None in stamps:
        stamps = list(range(len(stamps)))
    order = np.argsort(np.asarray(stamps, dtype=np.int64), kind="stable")
    pts = np.asarray(stamps, dtype=np.int64)[order]
    assert stream.time_base is not None  # every stream of an opened file has one
    tick_s = float(stream.time_base)
    start_s = (container.start_time or 0) / av.time_base
    duration_s = 0.0
    if len(pts):
        last_s = durations[order[-1]] * tick_s or _frame_s(stream, pts * tick_s)
        duration_s = float(pts[-1] - pts[0]) * tick_s + last_s
    orientation, fault = UPRIGHT, None
    if stream.codec_context is None:
        fault = "cannot be decoded (there is no decoder for its codec); convert it to H.264 in mp4"
    else:
        try:
            orientation = first.orientation()
        except ValueError as error:
            fault = (
                f"has {error}, which turns it by no multiple of 90 degrees; convert it with a "
                "program that turns the frames themselves"
            )
    return Picture(
        stream=stream.index,
        pts=pts,
        times_s=pts * tick_s - start_s,
        duration_s=duration_s,
        has_pts=has_pts,
        orientation=orientation,
        decord_agrees=len(container.streams.video) == 1
        and first.decord_turns_it("mp4" in container.format.name, orientation),
        fault=fault,
    )


class _FirstFrame:
    """The first frame of a stream that decodes, as packets come."""

    def __init__(self, stream: av.VideoStream) -> None:
        self._stream = stream
        self._packets: list[av.Packet] = []
        self._frame: av.VideoFrame | None = None
        if stream.codec_context is not None:
            stream.codec_context.thread_count = 1

    def look_at(self, packet: av.Packet) -> None:
        """Decode a packet, until there is a frame; the last packet is an empty one."""
        if self._frame is None and self._stream.codec_context is not None:
            self._packets.append(packet)
            self._frame = _decode(self._stream.codec_context, packet)

    def orientation(self) -> Orientation:
        """Read the orientation from the frame, or else from the stream's tags.

        Raises:
            ValueError: It is none of the eight.
        """
        matrix = _matrix(self._frame)
        return of_tags(self._stream.metadata) if matrix is None else of_matrix(matrix)

    def decord_turns_it(self, is_mp4: bool, orientation: Orientation) -> bool:
        """Whether decord 0.6 shows the frames like this.

        It knows the angle in an mp4's display matrix; it overlooks mirrors, the matrix of other
        containers, and what the codec's own messages say.
        """
        if _matrix(self._frame) is None:
            return orientation == UPRIGHT
        if not is_mp4 or orientation.is_reflection:
            return False
        codec = self._stream.codec_context
        alone = av.CodecContext.create(codec.name, "r")  # decodes without the container
        assert isinstance(alone, av.VideoCodecContext)
        alone.extradata = codec.extradata
        frames = (_decode(alone, packet) for packet in (*self._packets, None))
        frame = next((frame for frame in frames if frame is not None), None)
        return frame is not None and _matrix(frame) is None


def _matrix(frame: av.VideoFrame | None) -> np.ndarray | None:
    """The display matrix of a frame, [9] int32, or None."""
    found: Any = None if frame is None else frame.side_data.get("DISPLAYMATRIX")
    return None if found is None else np.frombuffer(found, np.int32)


def _decode(codec: av.VideoCodecContext, packet: av.Packet | None) -> av.VideoFrame | None:
    """Decode a packet; None for one that gives no frame, or is broken."""
    try:
        frames = codec.decode(packet)
    except av.FFmpegError:  # reading the frames will say so
        return None
    return frames[0] if frames else None


def _frame_s(stream: av.VideoStream, times_s: np.ndarray) -> float:
    """How long a frame is shown, for a container that does not say."""
    if len(times_s) > 1:
        return float(np.median(np.diff(times_s)))
    return float(1 / stream.average_rate) if stream.average_rate else 0.0
