"""Make a clip that every browser plays: the file itself if browsers play it, else a small new one.

Every browser plays H.264 in yuv420p and AAC in mp4, and such a file is kept byte for byte unless it
is large. Anything else (other codecs, a sidecar sound, a long clip) is encoded again at a small
size and cut after ``MAX_S``. There is no time limit here: call ``show_clip`` through
``media/sandbox``.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.container import look_into, open_container, read_bytes, reason
from omni_rlvr.media.orientation import UPRIGHT
from omni_rlvr.media.picture import Picture, need_readable
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.types import Clip, MediaError

MAX_S = 30.0
"""Seconds that are kept of a longer clip."""
MAX_BYTES = 400_000
"""A larger file is encoded again."""
HEIGHT = 240
"""Largest height, in pixels, of a picture that is encoded again."""
MAX_FPS = 30
TICK = Fraction(1, 1000)


@dataclass(frozen=True)
class Playable:
    """A clip for a browser."""

    data: bytes
    mime: str
    """``video/mp4`` or ``audio/mp4``."""
    is_cut: bool
    """Whether only the first ``MAX_S`` seconds are in it."""


def show_clip(
    video: Path | None, audio: Path | None, request: ClipRequest
) -> tuple[Clip, Playable]:
    """Read a clip, and make a version of it that a browser plays.

    Args and Raises: as ``clip.read_clip`` and ``playable``.
    """
    clip = read_clip(video, audio, request)
    return clip, playable(video, audio, clip.waveform, sample_rate=request.sample_rate)


def playable(
    video: Path | None, audio: Path | None, waveform: np.ndarray | None, *, sample_rate: int
) -> Playable:
    """Make a clip that a browser plays.

    Args:
        video: the container, or None.
        audio: a sound file that replaces the container's track, or None.
        waveform: [S] float32 mono, the clip's sound as it was read; None for no sound.
        sample_rate: of the waveform, Hz.

    Raises:
        MediaError: the picture cannot be opened or encoded.
    """
    data = None if video is None else read_bytes(video)
    contents = None if data is None or video is None else look_into(data, video)
    picture = None if contents is None else contents.picture
    if picture is not None and video is not None:
        need_readable(picture, video)
    duration_s = max(
        0.0 if picture is None else picture.duration_s,
        0.0 if waveform is None else len(waveform) / sample_rate,
    )
    mime = "audio/mp4" if picture is None else "video/mp4"
    is_upright = picture is None or picture.orientation == UPRIGHT  # browsers ignore mirroring
    is_small = data is not None and len(data) <= MAX_BYTES and duration_s <= MAX_S
    if data is not None and audio is None and is_small and is_upright:
        try:
            if _is_common(data):
                return Playable(data, mime, False)
        except (av.FFmpegError, ValueError):
            pass  # the encoder below reports what is wrong
    try:
        out = _encode(data, picture, waveform, sample_rate)
    except (av.FFmpegError, ValueError) as error:
        raise MediaError(
            f"{video or audio}: cannot be encoded for a browser ({reason(error)})"
        ) from error
    return Playable(out, mime, duration_s > MAX_S)


def _is_common(data: bytes) -> bool:
    """Check whether every browser plays this file."""
    with open_container(data) as container:
        if "mp4" not in container.format.name:
            return False
        pictures, sounds = container.streams.video, container.streams.audio
        codecs = [stream.codec_context for stream in (*pictures, *sounds)]
        return len(pictures) <= 1 and all(map(_is_common_codec, codecs))


def _is_common_codec(codec: av.CodecContext | None) -> bool:
    if codec is None:  # there is no decoder for it
        return False
    if isinstance(codec, av.VideoCodecContext):
        return (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
    return codec.name == "aac"


def _encode(
    data: bytes | None, picture: Picture | None, waveform: np.ndarray | None, sample_rate: int
) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        sound = None
        if data is not None and picture is not None:
            with open_container(data) as container:
                sound = _encode_picture(out, container, picture, waveform, sample_rate)
        elif waveform is not None:
            sound = _add_sound(out, sample_rate)
        if sound is not None and waveform is not None:
            kept = np.ascontiguousarray(waveform[: round(MAX_S * sample_rate)], np.float32)
            samples = av.AudioFrame.from_ndarray(kept[None, :], format="fltp", layout="mono")
            samples.sample_rate = sample_rate
            samples.pts = 0  # without it AAC's priming samples are heard
            out.mux(sound.encode(samples))
            out.mux(sound.encode(None))
    return file.getvalue()


def _encode_picture(
    out: av.container.OutputContainer,
    container: av.container.InputContainer,
    picture: Picture,
    waveform: np.ndarray | None,
    sample_rate: int,
) -> av.AudioStream | None:
    """Write the picture; all streams must be added before the first packet."""
    encoder, sound, last = None, None, -1.0
    for number, frame in enumerate(container.decode(picture.stream)):
        assert isinstance(frame, av.VideoFrame)  # of a picture stream
        time_s = max(0.0, float(picture.times_s[picture.number_of(frame.pts, number)]))
        if time_s >= MAX_S:
            break
        if time_s < last + 0.9 / MAX_FPS and last >= 0:
            continue
        last = time_s
        if picture.orientation != UPRIGHT:
            pixels = picture.orientation.upright(frame.to_ndarray(format="rgb24"))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if encoder is None:
            options = {"preset": "veryfast", "crf": "28", "threads": "1"}
            encoder = out.add_stream("libx264", rate=MAX_FPS, options=options)
            scale = min(1.0, HEIGHT / frame.height)
            encoder.width = max(2, 2 * round(frame.width * scale / 2))
            encoder.height = max(2, 2 * round(frame.height * scale / 2))
            encoder.pix_fmt, encoder.codec_context.time_base = "yuv420p", TICK
            sound = None if waveform is None else _add_sound(out, sample_rate)
        small = frame.reformat(width=encoder.width, height=encoder.height, format="yuv420p")
        small.pts, small.time_base = round(time_s / TICK), TICK
        small.pict_type = av.video.frame.PictureType.NONE
        out.mux(encoder.encode(small))
    if encoder is None:
        raise ValueError("no frame in it can be decoded")
    out.mux(encoder.encode(None))
    return sound


def _add_sound(out: av.container.OutputContainer, sample_rate: int) -> av.AudioStream:
    stream = out.add_stream("aac", rate=sample_rate, layout="mono")
    stream.bit_rate = 48_000
    return stream
