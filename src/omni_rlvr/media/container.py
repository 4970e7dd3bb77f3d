"""What a media file holds, found out by looking at its bytes with PyAV, without decoding anything.

One pass over the packets gives the true time of every frame, whatever the frame rate does; both
decoding back ends number frames by this table. Picture and sound are on one axis: seconds from the
start of the file, which is where the first of them begins. Where recordings were joined end to end
and the time stamps start anew, each part follows the one before it. Broken and foreign files are
refused here, before decord sees them (it would print the whole file to stderr).
"""

from __future__ import annotations

import io
import itertools
import stat
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from omni_rlvr.types import ClipNote, MediaError

av.logging.set_level(av.logging.PANIC)

JOINT_S = 0.1
"""Time stamps of one stream that go back by more than this start a part that was joined on."""
MAX_GAP_S = 3600.0
"""A longer step forward is no gap but a joint too."""
_MAX_GAP_TS_S = 10.0  # in transport and program streams, whose clocks are known to be set anew
_TELL_LENGTH = {"mov", "matroska", "avi", "asf", "flv"}  # others have FFmpeg guess it
SHORT_S, SHORT_SHARE = 0.25, 0.02
"""Seconds, and share of the whole, that may be missing of a promised length: headers round."""
_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


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
    """Whether each packet carried its own presentation time (AVI packets may not), and these do
    not start anew within the file."""
    decord_agrees: bool
    """Whether decord shows the same: no second picture or cover, no rotation it overlooks."""


@dataclass(frozen=True)
class Sound:
    """The sound track of a file."""

    stream: int
    """Its number among all streams."""
    num_channels: int
    sample_rate: int
    """Hz; 0 where FFmpeg has no decoder for it."""
    duration_s: float
    """As the header tells it; 0 when it does not."""
    shifts_s: tuple[float, ...]
    """Added to the time stamps of each part of the file, they give seconds from its start; one
    number unless recordings were joined."""
    max_gap_s: float
    """A longer step forward in the time stamps starts the next part."""
    promised_s: float
    """From its first packet to the end of its last, for each part of the file, added up."""


@dataclass(frozen=True)
class Contents:
    """What was found in a file; None stands for a stream that is not there."""

    picture: Picture | None
    sound: Sound | None
    notes: tuple[ClipNote, ...] = ()
    """Whether the file is shorter than its header promises."""


def read_bytes(path: Path) -> bytes:
    """Read a whole file, opening it once.

    Raises:
        MediaError: If it is missing, a directory, not a regular file, empty, or may not be read.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise MediaError(f"{path}: is a directory, a media file was expected")
        if not stat.S_ISREG(mode):
            raise MediaError(f"{path}: is not a regular file (a pipe, socket or device)")
        data = path.read_bytes()
    except FileNotFoundError:
        raise MediaError(
            f"{path}: no such file; check the path in the annotation and the data set's media root"
        ) from None
    except OSError as error:
        raise MediaError(f"{path}: cannot be opened ({error.strerror})") from error
    if not data:
        raise MediaError(f"{path}: is empty (0 bytes); copy or download it again")
    return data


def open_container(data: bytes) -> av.container.InputContainer:
    """Open media bytes; a playlist in them may not make FFmpeg open other files or addresses."""
    return av.open(io.BytesIO(data), "r", options={"protocol_whitelist": "none"})


def look_into(data: bytes, path: Path) -> Contents:
    """Find the picture and sound streams of a file and the time of every frame.

    Args:
        data: The whole file.
        path: Where it came from, for messages.

    Raises:
        MediaError: If the file is cut short or FFmpeg does not know it.
    """
    _check_boxes(data, path)
    try:
        with open_container(data) as container:
            picture, sound = _picture_stream(container), container.streams.best("audio")
            streams = [stream for stream in (picture, sound) if stream is not None]
            index = _index(container, streams)
            return Contents(
                None if picture is None else _find_picture(container, picture, index, data),
                _find_sound(sound, index) if isinstance(sound, av.AudioStream) else None,
                _shortfall(container, streams, index),
            )
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(
            f"{path}: is not a video or sound file that FFmpeg can open ({reason(error)}); "
            "check that it plays, or convert it to mp4"
        ) from error


def reason(error: Exception) -> str:
    """Name an error of a library in one short line."""
    if isinstance(error, av.FFmpegError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@dataclass(frozen=True)
class _Packet:
    """A packet's place: which part of the file, and its times in seconds."""

    part: int
    ticks: int | None
    """Its presentation time in stream ticks, or else its decoding time."""
    has_pts: bool
    begins_s: float | None
    duration_s: float


@dataclass(frozen=True)
class _Index:
    """All packets of the streams in use."""

    packets: dict[int, list[_Packet]]
    """Stream number -> its packets, in the order of the file."""
    shifts_s: tuple[float, ...]
    max_gap_s: float


def _index(container: av.container.InputContainer, streams: list[av.stream.Stream]) -> _Index:
    """List the packets of some streams and put the parts of joined recordings behind each other."""
    max_gap_s = _MAX_GAP_TS_S if "mpeg" in container.format.name else MAX_GAP_S
    packets: dict[int, list[_Packet]] = {stream.index: [] for stream in streams}
    latest: dict[int, tuple[int, float]] = {}
    for packet in container.demux(streams) if streams else ():
        number = packet.stream_index
        if not packet.size or packet.is_discard:
            continue
        tick_s = float(_tick_s(packet.stream))
        part, before_s = latest.get(number, (0, None))
        if packet.dts is not None:
            now_s = packet.dts * tick_s
            part += before_s is not None and is_joint(now_s - before_s, max_gap_s)
            latest[number] = part, now_s
        ticks = packet.dts if packet.pts is None else packet.pts
        begins_s = None if ticks is None else ticks * tick_s
        duration_s = (packet.duration or 0) * tick_s
        packets[number].append(_Packet(part, ticks, packet.pts is not None, begins_s, duration_s))
    start_s = (container.start_time or 0) / av.time_base
    return _Index(
        packets, _shifts([p for rows in packets.values() for p in rows], start_s), max_gap_s
    )


def is_joint(step_s: float, max_gap_s: float) -> bool:
    """Tell a joint from the next frame and from a gap, by the step between two time stamps."""
    return step_s < -JOINT_S or step_s > max_gap_s


def _shifts(packets: list[_Packet], start_s: float) -> tuple[float, ...]:
    """What brings each part's time stamps to seconds from the start of the file."""
    shifts_s = [-start_s]
    timed = [(p.part, p.begins_s, p.duration_s) for p in packets if p.begins_s is not None]
    for part in range(1, max((p for p, _, _ in timed), default=0) + 1):
        end_s = max((b + d for p, b, d in timed if p == part - 1), default=0.0) + shifts_s[-1]
        shifts_s.append(end_s - min((b for p, b, _ in timed if p == part), default=0.0))
    return tuple(shifts_s)


def _shortfall(
    container: av.container.InputContainer, streams: list[av.stream.Stream], index: _Index
) -> tuple[ClipNote, ...]:
    """Compare where the packets end with the length in the header, where there is one."""
    others = {stream.index for stream in container.streams} - index.packets.keys()
    if not _TELL_LENGTH & set(container.format.name.split(",")) or others or not streams:
        return ()
    promised_s = (container.duration or 0) / av.time_base
    ends_s = [
        p.begins_s + p.duration_s + index.shifts_s[p.part]
        for rows in index.packets.values()
        for p in rows
        if p.begins_s is not None
    ]
    end_s = max(ends_s, default=0.0)
    if not is_short(end_s, promised_s):
        return ()
    text = f"ends at {end_s:.2f} s of the {promised_s:.2f} s that its header promises"
    return (ClipNote("short", text),)


def is_short(seconds: float, promised_s: float) -> bool:
    """Whether more is missing of a promised length than rounding explains."""
    return seconds < promised_s - max(SHORT_S, SHORT_SHARE * promised_s)


def _picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    best = container.streams.best("video")
    return next((s for s in streams if s is best), streams[0] if streams else None)


def _find_picture(
    container: av.container.InputContainer, stream: av.VideoStream, index: _Index, data: bytes
) -> Picture:
    packets = index.packets[stream.index]
    has_pts = all(p.has_pts for p in packets)
    tick_s = float(_tick_s(stream))
    ticks = [p.ticks for p in packets]
    if None in ticks:
        ticks = list(range(len(packets)))
    pts = np.asarray(ticks, dtype=np.int64)
    parts = np.asarray([p.part for p in packets], dtype=np.int64)
    order = np.lexsort((pts, parts))
    times_s = pts[order] * tick_s + np.asarray(index.shifts_s)[parts[order]]
    duration_s = 0.0
    if len(pts):
        last_s = packets[order[-1]].duration_s or _frame_s(stream, times_s)
        duration_s = float(times_s[-1] - times_s[0]) + last_s
    is_joined = bool(len(parts)) and bool(parts.max() > 0)
    return Picture(
        stream=stream.index,
        pts=pts[order],
        times_s=times_s,
        duration_s=duration_s,
        has_pts=has_pts and not is_joined,
        decord_agrees=len(container.streams.video) == 1
        and not is_joined
        and not (_is_matroska(container) and _is_turned(data, stream.index)),
    )


def _is_matroska(container: av.container.InputContainer) -> bool:
    """Find mkv and webm: decord 0.6 overlooks their display matrix."""
    return "matroska" in container.format.name


def _is_turned(data: bytes, stream: int) -> bool:
    with open_container(data) as container:
        return any(frame.rotation for frame in itertools.islice(container.decode(stream), 1))


def _frame_s(stream: av.VideoStream, times_s: np.ndarray) -> float:
    """How long a frame is shown, for a container that does not say."""
    if len(times_s) > 1:
        return float(np.median(np.diff(times_s)))
    return float(1 / stream.average_rate) if stream.average_rate else 0.0


def _tick_s(stream: av.stream.Stream) -> Fraction:
    """The unit of a stream's times, in seconds."""
    assert stream.time_base is not None  # every stream of an opened file has one
    return stream.time_base


def _find_sound(stream: av.AudioStream, index: _Index) -> Sound:
    codec = stream.codec_context
    return Sound(
        stream=stream.index,
        num_channels=0 if codec is None else codec.channels,
        sample_rate=0 if codec is None else codec.sample_rate,
        duration_s=float((stream.duration or 0) * _tick_s(stream)),
        shifts_s=index.shifts_s,
        max_gap_s=index.max_gap_s,
        promised_s=_spans_s(index.packets[stream.index]),
    )


def _spans_s(packets: list[_Packet]) -> float:
    spans: dict[int, tuple[float, float]] = {}
    for p in packets:
        if p.begins_s is not None:
            first_s, last_s = spans.get(p.part, (p.begins_s, p.begins_s))
            spans[p.part] = min(first_s, p.begins_s), max(last_s, p.begins_s + p.duration_s)
    return sum(last_s - first_s for first_s, last_s in spans.values())


def _check_boxes(data: bytes, path: Path) -> None:
    """Refuse an mp4 or mov that is cut short; FFmpeg would read some of it without a word."""
    if data[4:8] not in _FIRST_BOXES:
        return
    position, seen = 0, set()
    while position + 8 <= len(data):
        kind = data[position + 4 : position + 8]
        size = int.from_bytes(data[position : position + 4], "big")
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        elif size == 0:
            size = len(data) - position
        seen.add(kind)
        position += max(size, 8)
        if position > len(data) and kind in (b"mdat", b"moov", b"moof"):
            raise MediaError(
                f"{path}: is truncated, {position - len(data)} bytes are missing at its end; "
                "copy or download it again"
            )
    if not seen & {b"moov", b"moof", b"meta"}:
        raise MediaError(
            f"{path}: is truncated or its recording was never finished (no index, 'moov', in it); "
            "copy or download it again"
        )
