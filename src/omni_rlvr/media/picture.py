"""The picture stream of a file: the time of every frame, which way up it is, and any fault.

The first frame is decoded while the packets are passed over, since only frames tell their
orientation. The key frames are looked at too: decord begins at the key frame before a wanted frame
and counts on from there. Where a key frame only begins to refresh the picture, or where frames that
are shown before it follow it in the file, that gives another frame, or a broken one, without an
error.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from omni_rlvr.media.limits import in_force
from omni_rlvr.media.orientation import UPRIGHT, Orientation, of_matrix, of_tags
from omni_rlvr.media.timeline import Timeline, tick_s_of
from omni_rlvr.types import MediaError

_USUAL_RATE = Fraction(25)
"""Frames a second, where a file does not say."""
_NAL_TYPE, _IDR = 0x1F, 5  # of H.264: the frame after which none refers to one before


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
    """Whether each packet carried its own presentation time (packets of AVI do not), and the times
    do not start anew within the file."""
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


class PictureProbe:
    """Describes the picture stream of a file; packets are handed in one by one."""

    def __init__(self, stream: av.VideoStream) -> None:
        self._stream = stream
        self._fault = _fault(stream)
        self._packets: list[av.Packet] = []
        self._frame: av.VideoFrame | None = None
        self._key: int | None = None
        self._newest: int | None = None
        self._are_entries = True  # whether what follows each key frame is what is shown after it
        if self._fault is None:
            stream.codec_context.thread_count = 1

    def look_at(self, packet: av.Packet) -> None:
        """Decode a packet, unless there is a frame already, and check its place among the others.

        The last packet of a stream is an empty one.
        """
        if packet.stream_index != self._stream.index:
            return
        if self._fault is None and self._frame is None:
            self._packets.append(packet)
            self._frame = _decode(self._stream.codec_context, packet)
        if (pts := packet.pts) is None:
            return
        if packet.is_keyframe:
            if self._newest is not None and not (
                pts > self._newest and _is_whole_refresh(self._stream, packet)
            ):
                self._are_entries = False
            self._key = pts
        elif self._key is None or pts < self._key:
            self._are_entries = False
        self._newest = pts if self._newest is None else max(pts, self._newest)

    def picture(self, container: av.container.InputContainer, timeline: Timeline) -> Picture:
        """Describe the picture of a file whose packets were all handed in."""
        stream = self._stream
        rate = stream.average_rate or stream.guessed_rate or _USUAL_RATE
        packets = timeline.packets[stream.index]
        stamps = [p.ticks for p in packets]
        if None in stamps:  # the times follow from the frame rate
            first = next((stamp for stamp in stamps if stamp is not None), 0)
            stamps = [first + round(i / (rate * tick_s_of(stream))) for i in range(len(stamps))]
        parts = np.asarray([p.part for p in packets], dtype=np.int64)
        order = np.lexsort((np.asarray(stamps, dtype=np.int64), parts))
        pts = np.asarray(stamps, dtype=np.int64)[order]
        is_joined = len(set(parts.tolist())) > 1
        times_s = pts * float(tick_s_of(stream)) + np.asarray(timeline.shifts_s)[parts[order]]
        duration_s = 0.0
        if len(pts):
            usual_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
            frame_s = float(np.median(np.diff(times_s))) if len(pts) > 1 else usual_s
            last_s = packets[order[-1]].duration_s or frame_s
            duration_s = float(times_s[-1] - times_s[0]) + last_s
        orientation, fault = UPRIGHT, self._fault
        try:
            matrix = _matrix(self._frame)
            orientation = of_tags(stream.metadata) if matrix is None else of_matrix(matrix)
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
            and self._are_entries
            and self._decord_turns_it(orientation),
            fault=fault,
        )

    def _decord_turns_it(self, orientation: Orientation) -> bool:
        """Tell whether decord 0.6 shows the frames of an mp4 or mov in this orientation.

        It knows the angle in the display matrix; it overlooks mirrors, and what the codec's own
        messages say.
        """
        if _matrix(self._frame) is None:
            return orientation == UPRIGHT
        if orientation.is_reflection:
            return False
        codec = self._stream.codec_context
        alone = av.CodecContext.create(codec.name, "r")  # decodes without the container
        assert isinstance(alone, av.VideoCodecContext)
        alone.extradata = codec.extradata
        frames = (_decode(alone, packet) for packet in (*self._packets, None))
        frame = next((frame for frame in frames if frame is not None), None)
        return frame is not None and _matrix(frame) is None


def _fault(stream: av.VideoStream) -> str | None:
    """Say why no frame of a stream can, or may, be decoded; None if frames can."""
    if stream.codec_context is None:
        return "cannot be decoded (there is no decoder for its codec); convert it to H.264 in mp4"
    size = f"has {stream.width} x {stream.height} pixels a frame"
    return in_force().problem("max_frame_pixels", stream.width * stream.height, size)


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


def _is_whole_refresh(stream: av.VideoStream, packet: av.Packet) -> bool:
    """Tell whether a key frame needs no other; for H.264 in an mp4, by the types of its parts."""
    codec = stream.codec_context
    if codec.name != "h264":
        return True
    data, settings = bytes(packet), bytes(codec.extradata or b"")
    if settings[:1] != b"\x01":  # no sizes before the parts, as in a transport stream
        return False
    size_bytes, at = (settings[4] & 3) + 1, 0
    while at + size_bytes < len(data):
        size = int.from_bytes(data[at : at + size_bytes], "big")
        if data[at + size_bytes] & _NAL_TYPE == _IDR:
            return True
        at += size_bytes + size
    return False
