"""Decode a clip from end to end, to find a fault in its middle before a training run does.

It refuses what ``clip.probe_clip`` and ``clip.read_clip`` refuse, and also frames that the decoder
marks as damaged (training would get frames that the decoder repaired) and a file that ends before
its header says. A few wrong bytes may still decode to a wrong picture, which cannot be detected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av

from omni_rlvr.media.clip import probe_clip, read_clip
from omni_rlvr.media.container import look_into, open_container, read_bytes
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.types import Clip, ClipNote, MediaError

_MAX_SHORTFALL = 0.1
"""Share of the length in the header that may be missing: headers are rounded."""
_FAULTS = ("short", "damaged_sound")
"""Kinds of notes that training accepts and this check refuses."""
_MEND = "convert or download it again"


def inspect_clip(video: Path | None, audio: Path | None, request: ClipRequest) -> Clip:
    """Decode one clip as training would, then all of it, for ``sandbox.reader.ClipReader``.

    Args and Returns: as ``clip.probe_clip``; only what is wanted is decoded.

    Raises:
        MediaError: As ``read_clip``; a frame is damaged; or a file is shorter than it says.
    """
    opened, seen = (read(video, audio, request) for read in (probe_clip, read_clip))
    if video is not None:
        sound = request.want_audio and audio is None
        _refuse_damage(video, picture=request.want_video, sound=sound)
    if audio is not None and request.want_audio:
        heard = read_clip(None, audio, replace(request, want_video=False, window_s=None))
        _refuse_faults(audio, heard.notes)  # ``read_clip`` accepts a file that is cut short
    return _with_notes(opened, seen)


def hear_clip(video: Path | None, audio: Path | None, request: ClipRequest) -> Clip:
    """Open a clip and decode its sound as training would, for ``sandbox.reader.ClipReader``.

    Args and Returns: as ``clip.probe_clip``, with the notes on the clip.

    Raises:
        MediaError: As ``probe_clip``, and if the sound cannot be decoded to its end.
    """
    opened = probe_clip(video, audio, request)
    if not request.want_audio or opened.waveform is None:
        return opened
    return _with_notes(opened, read_clip(video, audio, replace(request, want_video=False)))


def _with_notes(opened: Clip, seen: Clip) -> Clip:
    return replace(opened, notes=tuple(dict.fromkeys((*opened.notes, *seen.notes))))


def _refuse_damage(path: Path, *, picture: bool, sound: bool) -> None:
    data = read_bytes(path)
    contents = look_into(data, path)
    _refuse_faults(path, contents.notes)
    wanted = {contents.picture.stream: "picture"} if picture and contents.picture else {}
    wanted |= {contents.sound.stream: "sound"} if sound and contents.sound else {}
    damaged: dict[str, list[float]] = {"picture": [], "sound": []}
    with open_container(data) as container:
        start_s = (container.start_time or 0) / av.time_base
        before_s = max(0.0, start_s)  # a header counts from 0, not from the first stream
        promised_s, end_s = (container.duration or 0) / av.time_base, 0.0
        for packet in container.demux():
            begins_s = _seconds(packet, packet.dts if packet.pts is None else packet.pts) - start_s
            end_s = max(end_s, before_s + begins_s + _seconds(packet, packet.duration))
            if packet.stream.index in wanted and not _is_whole(packet):
                damaged[wanted[packet.stream.index]].append(begins_s)
    for kind, times_s in damaged.items():
        if times_s:
            raise MediaError(
                f"{path}: its {kind} is damaged in {len(times_s)} places, the first near "
                f"{max(0.0, min(times_s)):.2f} s; {_MEND}"
            )
    if contents.picture is not None and end_s < promised_s * (1 - _MAX_SHORTFALL):
        raise MediaError(
            f"{path}: ends at {end_s:.2f} s of the {promised_s:.2f} s that its header promises; "
            f"{_MEND}"
        )


def _seconds(packet: av.Packet, ticks: int | None) -> float:
    return float((ticks or 0) * packet.time_base) if packet.time_base else 0.0


def _is_whole(packet: av.Packet) -> bool:
    """Tell whether a packet can be decoded, and no frame is marked as damaged."""
    try:
        return not any(frame.is_corrupt for frame in packet.decode())
    except av.FFmpegError:
        return False


def _refuse_faults(path: Path, notes: Sequence[ClipNote]) -> None:
    for note in notes:
        if note.kind in _FAULTS:
            raise MediaError(f"{path}: {note.text}; {_MEND}")
