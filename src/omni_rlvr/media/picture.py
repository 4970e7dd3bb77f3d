"""The picture stream of a file: the time of every frame, which way up it is, and any fault.

The first frame is decoded while the packets are passed over, since only frames tell their
orientation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from omni_rlvr.media.key_frames import KeyFrames
from omni_rlvr.media.limits import in_force
from omni_rlvr.media.orientation import UPRIGHT, Orientation, of_matrix, of_tags
from omni_rlvr.media.timeline import Timeline, tick_s_of
from omni_rlvr.types import MediaError

_USUAL_RATE = Fraction(25)
"""Frames a second, where a file does not say."""


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
    """Whether each packet carried its own presentation time (those of AVI do not), and these do
    not start anew within the file."""
    orientation: Orientation
    """Which way up decoded frames are."""
    decord_agrees: bool
    """Whether decord shows the same: an mp4 or mov whose key frames it can start at, no second
    picture or cover, no orientation it overlooks."""
    fault: str | None
    """Why its frames cannot be read, and what to do; None if they can."""

    def number_of(self, pts: int | None, num_before: int) -> int:
        """Find a decoded frame in the table.

        Args:
            pts: Its presentation time in stream ticks, or None.
            num_before: Frames that were decoded before it.
        """
        place = num_before
        if self.has_pts and pts is not None:
            place = int(np.searchsorted(self.pts, pts))
        return min(place, len(self.pts) - 1)


def need_readable(picture: Picture, path: Path) -> None:
    """Refuse a picture whose frames cannot be read.

    Raises:
        MediaError: It has a fault, named with the file.
    """
    if picture.fault is not None:
        raise MediaError(f"{path}: its picture {picture.fault}")


def picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """Find the picture stream of an opened file, covers left out; None if there is none."""
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    best = container.streams.best("video")
    return next((s for s in streams if s is best), streams[0] if streams else None)


def find_picture(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    timeline: Timeline,
    first: FirstFrame,
    keys: KeyFrames,
) -> Picture:
    """Describe the picture of a file whose packets were passed over."""
    packets = timeline.packets[stream.index]
    stamps = [p.ticks for p in packets]
    if None in stamps:
        stamps = _counted_out(stream, stamps)
    parts = np.asarray([p.part for p in packets], dtype=np.int64)
    order = np.lexsort((np.asarray(stamps, dtype=np.int64), parts))
    pts = np.asarray(stamps, dtype=np.int64)[order]
    is_joined = len(set(parts.tolist())) > 1
    times_s = pts * float(tick_s_of(stream)) + np.asarray(timeline.shifts_s)[parts[order]]
    duration_s = 0.0
    if len(pts):
        last_s = packets[order[-1]].duration_s or _frame_s(stream, times_s)
        duration_s = float(times_s[-1] - times_s[0]) + last_s
    orientation, fault = UPRIGHT, _fault(stream)
    try:
        orientation = first.orientation()
    except ValueError as error:
        fault = fault or (
            f"has {error}, which turns it by no multiple of 90 degrees; convert it with a "
            "program that turns the frames themselves"
        )
    return Picture(
        stream=stream.index,
        pts=pts,
        times_s=times_s,
        duration_s=duration_s,
        has_pts=all(p.has_pts for p in packets) and not is_joined,
        orientation=orientation,
        decord_agrees=len(container.streams.video) == 1
        and not is_joined
        and "mp4" in container.format.name
        and keys.are_entries
        and first.decord_turns_it(orientation),
        fault=fault,
    )


def _fault(stream: av.VideoStream) -> str | None:
    """Why no frame of a stream can, or may, be decoded."""
    if stream.codec_context is None:
        return "cannot be decoded (there is no decoder for its codec); convert it to H.264 in mp4"
    size = f"has {stream.width} x {stream.height} pixels a frame"
    return in_force().problem("max_frame_pixels", stream.width * stream.height, size)


def _counted_out(stream: av.VideoStream, stamps: Sequence[int | None]) -> list[int | None]:
    """Give frames the times that the frame rate says, where some have none of their own."""
    rate = stream.average_rate or stream.guessed_rate or _USUAL_RATE
    first = next((stamp for stamp in stamps if stamp is not None), 0)
    return [first + round(i / (rate * tick_s_of(stream))) for i in range(len(stamps))]


class FirstFrame:
    """The first frame of a stream that can be decoded; packets are handed in one by one."""

    def __init__(self, stream: av.VideoStream | None) -> None:
        self._stream = stream
        self._may_decode = stream is not None and _fault(stream) is None
        self._packets: list[av.Packet] = []
        self._frame: av.VideoFrame | None = None
        if stream is not None and self._may_decode:
            stream.codec_context.thread_count = 1

    def look_at(self, packet: av.Packet) -> None:
        """Decode a packet, unless there is a frame already; the last packet is an empty one."""
        stream = self._stream
        if stream is None or not self._may_decode or self._frame is not None:
            return
        if packet.stream_index == stream.index:
            self._packets.append(packet)
            self._frame = _decode(stream.codec_context, packet)

    def orientation(self) -> Orientation:
        """Read the orientation from the frame, or else from the stream's tags.

        Raises:
            ValueError: It is none of the eight.
        """
        matrix = _matrix(self._frame)
        tags = {} if self._stream is None else self._stream.metadata
        return of_tags(tags) if matrix is None else of_matrix(matrix)

    def decord_turns_it(self, orientation: Orientation) -> bool:
        """Whether decord 0.6 shows the frames of an mp4 or mov like this.

        It knows the angle in the display matrix; it overlooks mirrors, and what the codec's own
        messages say.
        """
        if _matrix(self._frame) is None:
            return orientation == UPRIGHT
        if orientation.is_reflection:
            return False
        assert self._stream is not None  # it had a frame
        codec = self._stream.codec_context
        alone = av.CodecContext.create(codec.name, "r")  # decodes without the container
        assert isinstance(alone, av.VideoCodecContext)
        alone.extradata = codec.extradata
        frames = (_decode(alone, packet) for packet in (*self._packets, None))
        frame = next((frame for frame in frames if frame is not None), None)
        return frame is not None and _matrix(frame) is None


def _matrix(frame: av.VideoFrame | None) -> np.ndarray | None:
    """Return the display matrix of a frame, [9] int32, or None."""
    found: Any = None if frame is None else frame.side_data.get("DISPLAYMATRIX")
    return None if found is None else np.frombuffer(found, np.int32)


def _decode(codec: av.VideoCodecContext, packet: av.Packet | None) -> av.VideoFrame | None:
    """Decode a packet; None for one that gives no frame, or is broken."""
    try:
        frames = codec.decode(packet)
    except av.FFmpegError:  # reading the frames raises for it
        return None
    return frames[0] if frames else None


def _frame_s(stream: av.VideoStream, times_s: np.ndarray) -> float:
    """How long a frame is shown, for a container that does not say."""
    if len(times_s) > 1:
        return float(np.median(np.diff(times_s)))
    return float(1 / stream.average_rate) if stream.average_rate else 0.0
