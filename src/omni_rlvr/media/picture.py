"""The picture stream of a file: the time of every frame, which way up it is, and any fault.

The first frame is decoded during the pass over the packets, since only frames carry the
orientation. Key frames are checked too, to decide whether decord can be used: it seeks to the key
frame before a wanted frame and counts frames from there. It then returns a wrong or broken frame
without an error if a key frame does not refresh the whole picture, or if frames that follow it in
the file are shown before it.
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
"""Frames a second of a file that gives no rate."""
_NAL_TYPE, _IDR = 0x1F, 5  # H.264: no frame after an IDR frame refers to one before it


@dataclass(frozen=True)
class Picture:
    """The picture stream of a file."""

    stream: int
    """The index among all streams of the file."""
    pts: np.ndarray
    """[D] int64, presentation time of each frame in stream ticks, in the order shown."""
    times_s: np.ndarray
    """[D] float64, the same times in seconds from the start of the file."""
    duration_s: float
    """Time from the appearance of the first frame to the end of the last one."""
    has_pts: bool
    """Whether each packet has a presentation time (packets of AVI do not) and the times do not
    restart within the file."""
    orientation: Orientation
    """Which way up decoded frames are."""
    decord_agrees: bool
    """Whether decord gives the same frames: the file is an mp4 or mov with one picture stream and
    no cover, decord can seek to its key frames, and it applies the orientation."""
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
        MediaError: It has a fault; names the file and the fault.
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
        self._can_seek = True  # whether decoding may start at every key frame, see the top
        if self._fault is None:
            stream.codec_context.thread_count = 1

    def look_at(self, packet: av.Packet) -> None:
        """Decode packets up to the first frame, and check the place of key frames.

        The last packet of a stream is empty.
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
                self._can_seek = False
            self._key = pts
        elif self._key is None or pts < self._key:
            self._can_seek = False
        self._newest = pts if self._newest is None else max(pts, self._newest)

    def picture(self, container: av.container.InputContainer, timeline: Timeline) -> Picture:
        """Describe the picture of a file whose packets were all handed in."""
        stream = self._stream
        rate = stream.average_rate or stream.guessed_rate or _USUAL_RATE
        packets = timeline.packets[stream.index]
        stamps = [p.ticks for p in packets]
        if None in stamps:  # derive the times from the frame rate
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
                f"has {error}, which is not a rotation by a multiple of 90 degrees; convert it "
                "with a program that rotates the frames themselves"
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
            and self._can_seek
            and self._decord_turns_it(orientation),
            fault=fault,
        )

    def _decord_turns_it(self, orientation: Orientation) -> bool:
        """Tell whether decord 0.6 shows the frames of an mp4 or mov in this orientation.

        It applies the angle of the container's display matrix; it ignores mirroring and the
        codec's side data.
        """
        if _matrix(self._frame) is None:
            return orientation == UPRIGHT
        if orientation.is_reflection:
            return False
        codec = self._stream.codec_context
        alone = av.CodecContext.create(codec.name, "r")  # without the container's display matrix
        assert isinstance(alone, av.VideoCodecContext)
        alone.extradata = codec.extradata
        frames = (_decode(alone, packet) for packet in (*self._packets, None))
        frame = next((frame for frame in frames if frame is not None), None)
        return frame is not None and _matrix(frame) is None


def _fault(stream: av.VideoStream) -> str | None:
    """Say why the frames of a stream cannot or may not be decoded; None if they can."""
    if stream.codec_context is None:
        return "cannot be decoded (there is no decoder for its codec); convert it to H.264 in mp4"
    size = f"has {stream.width} x {stream.height} pixels a frame"
    return in_force().problem("max_frame_pixels", stream.width * stream.height, size)


def _matrix(frame: av.VideoFrame | None) -> np.ndarray | None:
    """Return the display matrix of a frame, [9] int32, or None."""
    found: Any = None if frame is None else frame.side_data.get("DISPLAYMATRIX")
    return None if found is None else np.frombuffer(found, np.int32)


def _decode(codec: av.VideoCodecContext, packet: av.Packet | None) -> av.VideoFrame | None:
    """Decode a packet; None if it gives no frame or is broken."""
    try:
        frames = codec.decode(packet)
    except av.FFmpegError:  # reading the frames will raise the error
        return None
    return frames[0] if frames else None


def _is_whole_refresh(stream: av.VideoStream, packet: av.Packet) -> bool:
    """Tell whether later frames need nothing before this key frame; H.264: whether it is IDR."""
    codec = stream.codec_context
    if codec.name != "h264":
        return True
    data, settings = bytes(packet), bytes(codec.extradata or b"")
    if settings[:1] != b"\x01":  # NAL units without sizes before them, as in a transport stream
        return False
    size_bytes, at = (settings[4] & 3) + 1, 0
    while at + size_bytes < len(data):
        size = int.from_bytes(data[at : at + size_bytes], "big")
        if data[at + size_bytes] & _NAL_TYPE == _IDR:
            return True
        at += size_bytes + size
    return False
