"""Place the packets of picture and sound on one time axis: seconds from the start of the file.

The file starts where its first stream begins. If recordings were joined end to end, so that the
time stamps restart, each part follows the one before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av

from omni_rlvr.media.limits import in_force
from omni_rlvr.types import ClipNote, MediaError

JOINT_S = 0.1
"""Seconds; time stamps that go back by more mean that the next joined recording begins."""
MAX_GAP_S = 3600.0
"""Seconds; a longer step forward is not a gap but the beginning of the next joined recording."""
MAX_GAP_TS_S = 10.0
"""The same for transport and program streams, whose clocks are sometimes reset."""
LENGTH_IN_HEADER = {"mov", "matroska", "avi", "asf", "flv", "mxf", "flac"}
"""Formats whose header has the length of the file; for others FFmpeg guesses it."""
NO_TIMES = {"mp3", "aac", "flac", "wav", "aiff", "w64", "caf", "au", "ac3", "eac3", "amr"}
"""Formats without time stamps: FFmpeg adds up the packets' durations, which it assumes."""
MAX_LENGTH_S = 86_400.0
"""A longer length in a header is ignored: some programs write -1 for an unknown length."""
SHORT_S, SHORT_SHARE = 0.25, 0.02
"""Seconds, and share of the length in the header, that may be missing: headers are rounded."""


@dataclass(frozen=True)
class Packet:
    """The place of a packet in the file."""

    part: int
    """The index of the joined recording; 0 in most files."""
    ticks: int | None
    """Its presentation time in stream ticks, or else its decoding time."""
    has_pts: bool
    begins_s: float | None
    """``ticks`` in seconds, on the axis of the stream's time stamps."""
    duration_s: float


@dataclass(frozen=True)
class Timeline:
    """All packets of the streams in use."""

    packets: dict[int, list[Packet]]
    """Stream number -> its packets, in the order of the file."""
    shifts_s: tuple[float, ...]
    """What to add to the times of each part to get seconds from the start of the file."""
    max_gap_s: float
    """A longer step forward in the time stamps starts the next part."""

    def span_s(self, stream: int) -> float:
        """Sum, over the parts, the time from a stream's first packet to the end of its last."""
        return sum(end_s - start_s for start_s, end_s in _spans(self.packets[stream]).values())


def read_timeline(
    container: av.container.InputContainer,
    streams: Sequence[av.stream.Stream],
    on_packet: Callable[[av.Packet], object] | None,
) -> Timeline:
    """Read the packets of some streams once, without decoding them.

    Args:
        container: A file that was just opened.
        streams: The streams to read.
        on_packet: Called with every packet, also the empty one at a stream's end.

    Raises:
        MediaError: The picture has too many frames; the caller adds the file's name.
    """
    max_gap_s = MAX_GAP_TS_S if "mpeg" in container.format.name else MAX_GAP_S
    is_guessed = container.format.name == "avi"  # its time stamps are in decoding order
    packets: dict[int, list[Packet]] = {stream.index: [] for stream in streams}
    latest: dict[int, tuple[int, float | None]] = {}
    for packet in container.demux(list(streams)) if streams else ():
        if on_packet is not None:
            on_packet(packet)
        if not packet.size or packet.is_discard:
            continue
        tick_s = float(tick_s_of(packet))
        part, before_s = latest.get(packet.stream_index, (0, None))
        if packet.dts is not None:
            now_s = packet.dts * tick_s
            part += before_s is not None and is_joint(now_s - before_s, max_gap_s)
            latest[packet.stream_index] = part, now_s
        has_pts = packet.pts is not None and not is_guessed
        ticks = packet.pts if has_pts else packet.dts
        begins_s = None if ticks is None else ticks * tick_s
        duration_s = (packet.duration or 0) * tick_s
        rows = packets[packet.stream_index]
        rows.append(Packet(part, ticks, has_pts, begins_s, duration_s))
        if isinstance(packet.stream, av.VideoStream):
            what = f"its picture has {len(rows)} frames or more"
            if problem := in_force().problem("max_frames", len(rows), what):
                raise MediaError(problem)
    start_s = (container.start_time or 0) / av.time_base
    return Timeline(packets, _shifts(list(packets.values()), start_s), max_gap_s)


def tick_s_of(timed: av.stream.Stream | av.Packet) -> Fraction:
    """Return the length of one tick, the unit of time stamps, in seconds."""
    assert timed.time_base is not None  # every stream and packet of an opened file has one
    return timed.time_base


def is_joint(step_s: float, max_gap_s: float) -> bool:
    """Tell by the step between two time stamps whether a joined recording begins."""
    return step_s < -JOINT_S or step_s > max_gap_s


def _shifts(streams: Sequence[Sequence[Packet]], start_s: float) -> tuple[float, ...]:
    """Compute ``Timeline.shifts_s``."""
    spans: dict[int, list[tuple[float, float]]] = {}
    for packets in streams:
        for part, span in _spans(packets).items():
            spans.setdefault(part, []).append(span)
    shifts_s = [-start_s]
    for part in range(1, max(spans, default=0) + 1):
        end_s = max((last_s for _, last_s in spans.get(part - 1, [])), default=0.0)
        first_s = min((first_s for first_s, _ in spans.get(part, [])), default=0.0)
        shifts_s.append(end_s + shifts_s[-1] - first_s)
    return tuple(shifts_s)


def _spans(packets: Sequence[Packet]) -> dict[int, tuple[float, float]]:
    """Find where each part of a stream begins and ends, in seconds.

    A last packet without a duration gets the mean duration.
    """
    times_s: dict[int, list[float]] = {}
    last: dict[int, Packet] = {}
    for packet in packets:
        if packet.begins_s is not None:
            times_s.setdefault(packet.part, []).append(packet.begins_s)
            last[packet.part] = packet
    spans = {}
    for part, times in times_s.items():
        first_s, last_s = min(times), max(times)
        mean_s = (last_s - first_s) / max(1, len(times) - 1)
        spans[part] = first_s, last_s + (last[part].duration_s or mean_s)
    return spans


def shortfall(container: av.container.InputContainer, timeline: Timeline) -> tuple[ClipNote, ...]:
    """Note a file whose packets end before the length in its header, if the header has one."""
    others = {stream.index for stream in container.streams} - timeline.packets.keys()
    if not LENGTH_IN_HEADER & set(container.format.name.split(",")) or others:
        return ()
    promised_s = (container.duration or 0) / av.time_base
    ends_s = [
        p.begins_s + p.duration_s + timeline.shifts_s[p.part]
        for rows in timeline.packets.values()
        for p in rows
        if p.begins_s is not None
    ]
    before_s = max(0.0, -timeline.shifts_s[0])  # a header counts from 0, not from the first stream
    end_s = max(ends_s, default=0.0) + before_s
    if not ends_s or not is_short(end_s, promised_s):
        return ()
    text = f"ends at {end_s:.2f} s of the {promised_s:.2f} s that its header promises"
    return (ClipNote("short", text),)


def is_short(seconds: float, promised_s: float) -> bool:
    """Tell whether a length is shorter than the header promises by more than rounding."""
    if promised_s > MAX_LENGTH_S:
        return False
    return seconds < promised_s - max(SHORT_S, SHORT_SHARE * promised_s)
