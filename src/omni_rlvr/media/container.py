"""What a media file holds, found out by looking at its bytes with PyAV, without decoding anything.

One pass over the packets gives the true time of every frame, whatever the frame rate does; both
decoding back ends number frames by this table. Broken and foreign files are refused here, before
decord sees them (it would print the whole file to stderr).
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

from omni_rlvr.types import MediaError

av.logging.set_level(av.logging.PANIC)

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
    has_decoder: bool
    """Whether FFmpeg can decode it at all."""
    has_pts: bool
    """Whether each packet carried its own presentation time (AVI packets may not)."""
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


@dataclass(frozen=True)
class Contents:
    """What was found in a file; None stands for a stream that is not there."""

    picture: Picture | None
    sound: Sound | None


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
        if path.is_symlink():
            raise MediaError(f"{path}: is a broken link, nothing is at {path.readlink()}") from None
        raise MediaError(
            f"{path}: no such file; check the path and dataset.root, the folder before it"
        ) from None
    except OSError as error:
        raise MediaError(f"{path}: cannot be opened ({error.strerror})") from error
    if not data:
        raise MediaError(f"{path}: is empty (0 bytes); copy or download it again")
    return data


def open_container(data: bytes) -> av.container.InputContainer:
    """Open media bytes; a playlist in them may not make FFmpeg open other files or addresses."""
    options = {"protocol_whitelist": "none"}
    return av.open(io.BytesIO(data), "r", options=options, metadata_errors="replace")


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
            sound = _find_sound(container)
            return Contents(_find_picture(container, data), sound)
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


def need_decoder(picture: Picture, path: Path) -> None:
    """Refuse a picture that FFmpeg cannot decode.

    Raises:
        MediaError: FFmpeg has no decoder for it.
    """
    if not picture.has_decoder:
        raise MediaError(
            f"{path}: its picture cannot be decoded (there is no decoder for its codec); "
            "convert it to H.264 in mp4"
        )


def _find_picture(container: av.container.InputContainer, data: bytes) -> Picture | None:
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        return None
    best = container.streams.best("video")
    stream = best if best in streams else streams[0]
    packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
    stamps = [p.dts if p.pts is None else p.pts for p in packets]
    has_pts = None not in [p.pts for p in packets]
    if None in stamps:
        stamps = list(range(len(packets)))
    order = np.argsort(np.asarray(stamps, dtype=np.int64), kind="stable")
    pts = np.asarray(stamps, dtype=np.int64)[order]
    tick_s = float(_tick_s(stream))
    start_s = (container.start_time or 0) / av.time_base
    duration_s = 0.0
    if len(pts):
        last_s = (packets[order[-1]].duration or 0) * tick_s or _frame_s(stream, pts * tick_s)
        duration_s = float(pts[-1] - pts[0]) * tick_s + last_s
    return Picture(
        stream=stream.index,
        pts=pts,
        times_s=pts * tick_s - start_s,
        duration_s=duration_s,
        has_decoder=stream.codec_context is not None,
        has_pts=has_pts,
        decord_agrees=len(container.streams.video) == 1
        and not (_is_matroska(container) and _is_turned(data, stream.index)),
    )


def _is_matroska(container: av.container.InputContainer) -> bool:
    """Find mkv and webm: decord 0.6 overlooks their display matrix."""
    return "matroska" in container.format.name


def _is_turned(data: bytes, stream: int) -> bool:
    with open_container(data) as container:
        if container.streams[stream].codec_context is None:  # no decoder
            return False
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


def _find_sound(container: av.container.InputContainer) -> Sound | None:
    stream = container.streams.best("audio")
    if not isinstance(stream, av.AudioStream):
        return None
    codec = stream.codec_context
    return Sound(
        stream=stream.index,
        num_channels=0 if codec is None else codec.channels,
        sample_rate=0 if codec is None else codec.sample_rate,
        duration_s=float((stream.duration or 0) * _tick_s(stream)),
    )


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
