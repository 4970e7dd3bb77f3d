"""Find the streams of a media file and the time of every frame, with PyAV.

One pass over the packets gives the true time of every frame, also at a variable frame rate; both
decoding back ends number frames by this table. Broken files and files of other kinds are refused
here, before decord opens them (it would print the whole file to stderr).
"""

from __future__ import annotations

import contextlib
import io
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av

from omni_rlvr.foreign import HEAD_BYTES, recognise
from omni_rlvr.media.files import like
from omni_rlvr.media.limits import GIGABYTE, in_force
from omni_rlvr.media.picture import Picture, PictureProbe, picture_stream
from omni_rlvr.media.sound_file import missing_bytes
from omni_rlvr.media.timeline import Timeline, read_timeline, shortfall, tick_s_of
from omni_rlvr.types import ClipNote, MediaError, first_line

av.logging.set_level(av.logging.PANIC)

_UNFINISHED = (".part", ".partial", ".crdownload", ".download", ".aria2", ".!qb", ".ytdl", ".tmp")
"""Suffixes of unfinished downloads, or of the files that programs keep beside them."""
_HEADS = {"asf": 16, "flv": 13, "mxf": 14}
"""Format -> number of bytes at the start of a file that occur nowhere else in it."""
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
"""Id of the ASF object that holds the size of the file, 40 bytes after the start of the id."""
_UNKNOWN_SIZE = 2**32 - 64  # from this value on: the program that wrote it did not know the size
_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


@dataclass(frozen=True)
class Sound:
    """The sound track of a file."""

    stream: int
    """The index among all streams of the file."""
    num_channels: int
    sample_rate: int
    """Hz; 0 if FFmpeg has no decoder for the sound."""
    duration_s: float
    """Duration according to the header; 0 if it gives none."""
    shifts_s: tuple[float, ...]
    """What to add to the time stamps of each part of the file to get seconds from its start; a
    file has one part unless recordings were joined."""
    max_gap_s: float
    """A longer step forward in the time stamps starts the next part."""
    promised_s: float
    """Time from the first packet to the end of the last one, summed over the parts of the file."""


@dataclass(frozen=True)
class Contents:
    """The streams of a file; None for a stream that it does not have."""

    picture: Picture | None
    sound: Sound | None
    notes: tuple[ClipNote, ...] = ()
    """A note if the file is shorter than its header says, or only its first part is read."""


def read_bytes(path: Path) -> bytes:
    """Read a whole file, opening it once.

    Raises:
        MediaError: It is missing, a directory, not a regular file, empty, too large, not a media
            file, or may not be read.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise MediaError(f"{path}: is a directory, a media file was expected")
        if not stat.S_ISREG(mode):
            raise MediaError(f"{path}: is not a regular file (a pipe, socket or device)")
        gigabytes = path.stat().st_size / GIGABYTE
        what = f"has {gigabytes:.1f} GB, and files are read whole"
        if problem := in_force().problem("max_memory_gb", gigabytes, what):
            raise MediaError(f"{path}: {problem}")
        data = path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            raise MediaError(f"{path}: is a broken link, nothing is at {path.readlink()}") from None
        raise MediaError(
            f"{path}: no such file{like(path)}; check the path and dataset.root, the folder before "
            "it"
        ) from None
    except OSError as error:
        raise MediaError(f"{path}: cannot be opened ({error.strerror})") from error
    if not data:
        raise MediaError(f"{path}: is empty (0 bytes); copy or download it again")
    if found := recognise(data[:HEAD_BYTES]):
        raise MediaError(f"{path}: is not a video or sound file but {found}{unfinished(path)}")
    return data


def unfinished(path: Path) -> str:
    """Return the end of a message if a file's name, or one next to it, shows a partial download."""
    names = [path.name for suffix in _UNFINISHED if path.name.lower().endswith(suffix)]
    beside = [path.with_name(path.name + suffix) for suffix in _UNFINISHED]
    names += [other.name for other in beside if other.exists()]
    return f"; its download is not finished: there is {names[0]}" if names else ""


def open_container(data: bytes) -> av.container.InputContainer:
    """Open media bytes; FFmpeg may not open other files or addresses that a playlist names.

    FFmpeg decodes a little to find out what is in a file, so the limit on frame sizes is set here
    too, doubled because codecs round sizes up.
    """
    max_pixels = str(2 * in_force().max_frame_pixels)
    options = {"protocol_whitelist": "none", "max_pixels": max_pixels}
    return av.open(io.BytesIO(data), "r", options=options, metadata_errors="replace")


def look_into(data: bytes, path: Path) -> Contents:
    """Find the picture and sound streams of a file and the time of every frame.

    Args:
        data: The whole file.
        path: Where it came from, for messages.

    Raises:
        MediaError: The file is cut short, exceeds a limit, or FFmpeg cannot open it.
    """
    num_indices = _check_boxes(data, path)
    try:
        with open_container(data) as container:
            format_name = container.format.name
            if format_name.endswith("_pipe"):  # FFmpeg opens an image as a video of one frame
                kind = format_name.removesuffix("_pipe").upper()
                raise MediaError(
                    f"is not a video or sound file but a picture ({kind}); name the clip that "
                    "belongs there"
                )
            picture, sound = picture_stream(container), container.streams.best("audio")
            _check_size(container, sound)
            probe = None if picture is None else PictureProbe(picture)
            streams = [stream for stream in (picture, sound) if stream is not None]
            timeline = read_timeline(container, streams, None if probe is None else probe.look_at)
            return Contents(
                None if probe is None else probe.picture(container, timeline),
                _find_sound(sound, timeline) if isinstance(sound, av.AudioStream) else None,
                _truncated(data)
                or _joined(data, format_name, num_indices)
                or shortfall(container, timeline),
            )
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from None
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(
            f"{path}: is not a video or sound file that FFmpeg can open ({reason(error)}); "
            f"check that it plays, or convert it to mp4{unfinished(path)}"
        ) from error


def _check_size(container: av.container.InputContainer, sound: av.stream.Stream | None) -> None:
    """Refuse an opened file whose header exceeds a limit, whichever streams are to be read.

    Raises:
        MediaError: It does; the caller adds the file's name.
    """
    limits, num_streams = in_force(), len(container.streams)
    duration_s = (container.duration or 0) / av.time_base
    problem = limits.problem("max_streams", num_streams, f"has {num_streams} streams")
    length = f"is {duration_s:.10g} s long"
    problem = problem or limits.problem("max_duration_s", duration_s, length)
    codec = sound.codec_context if isinstance(sound, av.AudioStream) else None
    if sound is not None and codec is not None and codec.sample_rate:
        sound_s = float((sound.duration or 0) * tick_s_of(sound))
        problem = problem or limits.sound_problem(codec.sample_rate, sound_s, codec.channels)
    if problem is not None:
        raise MediaError(problem)


def reason(error: Exception) -> str:
    """Describe an error of a library in one short line."""
    if isinstance(error, MemoryError):
        return f"it takes more memory than dataset.max_memory_gb={in_force().max_memory_gb:g}"
    if isinstance(error, av.FFmpegError) and error.strerror:
        return error.strerror
    return first_line(error)[:200]


@contextlib.contextmanager
def decoding(path: Path, what: str) -> Iterator[None]:
    """Turn the errors of decoding a stream into one that names file, stream and reason.

    Raises:
        MediaError: The stream cannot be decoded.
    """
    try:
        yield
    except (MediaError, av.FFmpegError, ValueError) as error:
        raise MediaError(
            f"{path}: its {what} cannot be decoded ({reason(error)}); convert or download it again"
        ) from error


def _find_sound(stream: av.AudioStream, timeline: Timeline) -> Sound:
    codec = stream.codec_context
    return Sound(
        stream=stream.index,
        num_channels=0 if codec is None else codec.channels,
        sample_rate=0 if codec is None else codec.sample_rate,
        duration_s=float((stream.duration or 0) * tick_s_of(stream)),
        shifts_s=timeline.shifts_s,
        max_gap_s=timeline.max_gap_s,
        promised_s=timeline.span_s(stream.index),
    )


def _truncated(data: bytes) -> tuple[ClipNote, ...]:
    """Note an AVI or ASF file that is shorter than its header says; FFmpeg reads it silently."""
    size = 0
    if data[:4] == b"RIFF":
        while data[size : size + 4] == b"RIFF":  # a large file has several parts
            part = int.from_bytes(data[size + 4 : size + 8], "little")
            size += 8 + (part if part < _UNKNOWN_SIZE else 0)
    elif data[:16] == _ASF:
        place = data.find(_ASF_PROPERTIES) + 40
        size = int.from_bytes(data[place : place + 8], "little") if place >= 40 else 0
    return (missing_bytes(size - len(data)),) if size > len(data) else ()


def _joined(data: bytes, format_name: str, num_indices: int) -> tuple[ClipNote, ...]:
    """Note files that were joined end to end in a format of which FFmpeg reads only the first."""
    head = _HEADS.get(format_name)
    num_files = num_indices if head is None else data.count(data[:head])
    return (joined_files(num_files),) if num_files > 1 else ()


def joined_files(number: int) -> ClipNote:
    """Make the note on a file of which only the first of several joined files is read."""
    text = f"is {number} files joined end to end, and only the first is read"
    return ClipNote("short", f"{text} (join them with ffmpeg's concat to have all of them read)")


def _check_boxes(data: bytes, path: Path) -> int:
    """Refuse an mp4 or mov that is cut short; FFmpeg would read a part of it silently.

    Returns:
        The number of joined files by their indices (boxes 'moov'); 0 for other formats and for
        fragmented files.
    """
    if data[4:8] not in _FIRST_BOXES:
        return 0
    position, seen = 0, Counter[bytes]()
    while position + 8 <= len(data):
        kind = data[position + 4 : position + 8]
        size = int.from_bytes(data[position : position + 4], "big")
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        elif size == 0:
            size = len(data) - position
        seen[kind] += 1
        position += max(size, 8)
        if position > len(data) and kind in (b"mdat", b"moov", b"moof"):
            raise MediaError(
                f"{path}: is truncated, {position - len(data)} bytes are missing at its end; "
                f"copy or download it again{unfinished(path)}"
            )
    if not seen.keys() & {b"moov", b"moof", b"meta"}:
        raise MediaError(
            f"{path}: is truncated or its recording was never finished (it has no index, 'moov'); "
            f"copy or download it again{unfinished(path)}"
        )
    return 0 if seen[b"moof"] else seen[b"moov"]
