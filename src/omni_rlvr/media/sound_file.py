"""Prepare the bytes of a sound file for libsndfile: split joined files and complete headers.

libsndfile reads only the first of several files that were joined, and only as much sound as its
header says, without a warning. So joined files are split, and the header of a recording that was
never finished is corrected. Nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from omni_rlvr.types import ClipNote

MAX_TRAILING = 1024
"""Most bytes after the sound that belong to no chunk: programs leave tags and padding there."""
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_JOINTS = {
    b"RIFF": (b"WAVE", 8),
    b"RIFX": (b"WAVE", 8),
    b"RF64": (b"WAVE", 8),
    b"BW64": (b"WAVE", 8),
    b"FORM": (b"AIF", 8),
    b"fLaC": (b"fLaC\x00\x00\x00\x22", 0),
    b"caff": (b"caff\x00\x01\x00\x00desc", 0),
    b"riff": (_W64_RIFF, 0),
    b".snd": (b".snd\x00\x00\x00", 0),
    b"OggS": (b"OggS\x00\x02" + bytes(8), 0),
}
"""First bytes of a file -> (a mark that every file of its format has, the offset of the mark)."""
_FIRST_PAGES = 300
"""Most bytes between the first pages of two streams of one Ogg file."""
_Order = Literal["little", "big"]


@dataclass(frozen=True)
class _Layout:
    """How a format lays out its chunks."""

    start: int
    """Offset of the first chunk."""
    id_size: int
    size_size: int
    order: _Order
    """Byte order of numbers."""
    data_id: bytes
    """The beginning of the name of the chunk with the samples."""
    ahead: int = 0
    """Bytes of that chunk before the samples."""
    align: int = 2
    counts_head: bool = False
    """Whether a chunk's size counts its name and size."""


_WAV = _Layout(12, 4, 4, "little", b"data")
_LAYOUTS = {
    b"RIFF": _WAV,
    b"RF64": _WAV,
    b"BW64": _WAV,
    b"RIFX": _Layout(12, 4, 4, "big", b"data"),
    b"FORM": _Layout(12, 4, 4, "big", b"SSND", ahead=8),
    b"caff": _Layout(8, 4, 8, "big", b"data", ahead=4, align=1),
    b"riff": _Layout(40, 16, 8, "little", b"data", align=8, counts_head=True),
}
"""First bytes of a file -> its layout, for uncompressed sound."""


def is_sound_file(data: bytes) -> bool:
    """Tell whether a file begins like a sound file of one of the formats in ``_JOINTS``."""
    mark, offset = _JOINTS.get(data[:4], (b"", 0))
    return bool(mark) and data[offset : offset + len(mark)] == mark


def split_joined(data: bytes) -> list[bytes]:
    """Split a file into the sound files that were joined in it; usually there is one."""
    mark, offset = _JOINTS.get(data[:4], (b"", 0))
    starts, at = [0], data.find(mark, offset + 1) if mark else -1
    page = 0
    while at >= 0:
        start = at - offset
        is_first = data[start : start + 4] in _JOINTS
        if data[:4] == b"OggS":
            is_first, page = start - page > _FIRST_PAGES, start
        if is_first:
            starts.append(start)
        at = data.find(mark, at + 1)
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def finish_header(data: bytes) -> tuple[bytes, tuple[ClipNote, ...]]:
    """Correct the length in a header that the recording program never finished.

    Returns:
        The file, changed only if its header gives less sound than there is, and notes on that or
        on missing bytes.
    """
    if data[:4] == b"OggS":
        return data, _ogg_notes(data)
    if data[:4] == b".snd":
        return _finish_au(data)
    layout = _LAYOUTS.get(data[:4])
    if layout is None or (data[:4] == b"FORM" and data[8:11] != b"AIF"):
        return data, ()
    wide: tuple[int, int] | None = None
    at = size = 0
    for name, at, size in _chunks(data, layout):  # noqa: B007 (the last ones are used)
        if name == b"ds64" and data[:4] in (b"RF64", b"BW64"):
            wide = (at + 8, int.from_bytes(data[at + 8 : at + 16], "little"))
        if name.startswith(layout.data_id):
            break
    else:
        return data, ()
    largest = 256**layout.size_size - 1
    if wide is not None and size == largest:
        size, largest = wide[1], 2**64 - 1
    is_open = size > largest - 64  # written where the size was not known
    claimed = 0 if is_open or size <= layout.ahead else size
    there = len(data) - at
    if claimed > there:
        return data, (missing_bytes(claimed - there),)
    if there <= layout.ahead or (not is_open and _is_finished(data, layout, at, size)):
        return data, ()
    finished = bytearray(data)
    head = layout.id_size + layout.size_size if layout.counts_head else 0
    _write(finished, at - layout.size_size, there + head, layout.size_size, layout.order)
    if wide is not None:
        _write(finished, wide[0], there, 8, "little")
    if data[:4] == b"FORM":
        _finish_common(finished, layout, there - layout.ahead)
    return bytes(finished), () if is_open else (_unfinished(claimed, there),)


def _chunks(
    data: bytes, layout: _Layout, start: int | None = None
) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, the first byte and the size of each chunk."""
    head = layout.id_size + layout.size_size
    at = layout.start if start is None else start
    while at + head <= len(data):
        name = data[at : at + layout.id_size]
        size = int.from_bytes(data[at + layout.id_size : at + head], layout.order)
        size = max(0, size - head) if layout.counts_head else size
        yield name, at + head, size
        at += head + size
        at += -at % layout.align


def _is_finished(data: bytes, layout: _Layout, at: int, size: int) -> bool:
    """Tell whether only other chunks, or a few bytes, follow the sound."""
    end = at + size
    for name, first, length in _chunks(data, layout, end + -end % layout.align):
        if first + length > len(data) + 1 or not all(32 <= byte < 127 for byte in name[:4]):
            break
        end = first + length
    rest = data[end:]
    if size <= layout.ahead:
        return len(rest) < 2
    return len(rest) <= MAX_TRAILING or not any(rest)


def _finish_common(finished: bytearray, layout: _Layout, num_bytes: int) -> None:
    """Write the number of samples into an AIFF's COMM chunk."""
    for name, at, _ in _chunks(bytes(finished[:4096]), layout):
        if name == b"COMM":
            channels = int.from_bytes(finished[at : at + 2], "big")
            bits = int.from_bytes(finished[at + 6 : at + 8], "big")
            block = max(1, channels * -(-bits // 8))
            _write(finished, at + 2, num_bytes // block, 4, "big")
            return


def _finish_au(data: bytes) -> tuple[bytes, tuple[ClipNote, ...]]:
    start, size = (int.from_bytes(data[at : at + 4], "big") for at in (4, 8))
    there = len(data) - start
    if size == 2**32 - 1 or size == there or (size and 0 < there - size <= MAX_TRAILING):
        return data, ()
    if size > there:
        return data, (missing_bytes(size - there),)
    finished = bytearray(data)
    _write(finished, 8, there, 4, "big")
    return bytes(finished), (_unfinished(size, there),)


def _ogg_notes(data: bytes) -> tuple[ClipNote, ...]:
    """Check that the last page is whole and marked as the last; libsndfile does not."""
    last = data.rfind(b"OggS\x00")
    segments = data[last + 27 : last + 27 + data[last + 26]] if len(data) > last + 26 else b""
    missing = last + 27 + len(segments) + sum(segments) - len(data)
    if missing > 0:
        return (missing_bytes(missing),)
    is_end = segments and data[last + 5] & 4
    text = "breaks off: its last page is not marked as its end"
    return () if is_end else (ClipNote("short", text),)


def _write(data: bytearray, at: int, number: int, size: int, order: _Order) -> None:
    data[at : at + size] = min(number, 256**size - 2).to_bytes(size, order)


def missing_bytes(num_bytes: int) -> ClipNote:
    """Make the note on a file that is cut short."""
    return ClipNote("short", f"is truncated, {num_bytes} bytes are missing at its end")


def _unfinished(claimed: int, there: int) -> ClipNote:
    text = f"was never finished: its header says {claimed} bytes of sound, it has {there}"
    return ClipNote("unfinished", f"{text}; all are read")
