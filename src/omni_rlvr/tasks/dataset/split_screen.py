"""Cut clips from a split-screen recording: one half of its picture, with a separate sound file.

The recording is decoded once, packet by packet, whatever the number of clips. Each clip is H.264
(yuv420p) and AAC in mp4, written under a temporary name and renamed when complete. A failure of one
clip does not affect the others. There is no time limit here: call it through ``media/sandbox``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.filter import Graph

from omni_rlvr.data.cutting import Cut
from omni_rlvr.media.clip import read_clip
from omni_rlvr.media.container import look_into, open_container, read_bytes, reason
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.orientation import Orientation
from omni_rlvr.media.picture import Picture, need_readable
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.types import MediaError

SAMPLE_RATE = 16_000
"""Hz; the rate of IEMOCAP's official sentences and of audio towers."""
MAX_SHORT_S = 0.25
"""Seconds that the recording may lack at the end of a clip."""
TICK = Fraction(1, 90_000)
_SAME_S = 1e-4  # times are written with four digits


def cut_clips(cuts: Sequence[Cut], folder: Path) -> list[str | None]:
    """Make the clips of one recording.

    Args:
        cuts: at least one, all of the same source, in any order.
        folder: holds unfinished clips; it must be on the file system of the finished ones.

    Returns:
        For each cut None, or why its clip could not be made.

    Raises:
        MediaError: the recording cannot be opened, or has no picture.
    """
    source = cuts[0].source
    data = read_bytes(source)
    picture = look_into(data, source).picture
    if picture is None or not len(picture.pts):
        raise MediaError(f"{source}: has no picture to cut clips from")
    need_readable(picture, source)
    frame_s = float(np.median(np.diff(picture.times_s))) if len(picture.pts) > 1 else 0.0
    clips = [_Clip(cut, folder / cut.clip.name, frame_s) for cut in cuts]
    with open_container(data) as container:
        stream = container.streams[picture.stream]
        for clip in clips:
            clip.check(float(picture.times_s[-1]) + frame_s)
        assert isinstance(stream, av.VideoStream)
        halves = {cut.half: _Half(stream, cut.half, picture.orientation) for cut in cuts}
        for time_s, frame in _frames(container, stream, picture):
            for clip in clips:
                clip.show(time_s, frame, halves)
            if all(clip.is_done for clip in clips):
                break
    for clip in clips:
        clip.finish()
    return [clip.failure for clip in clips]


def _frames(
    container: av.container.InputContainer, stream: av.VideoStream, picture: Picture
) -> Iterator[tuple[float, av.VideoFrame | None]]:
    """Yield every frame with its time from the start of the file; None for a damaged one."""
    stream.codec_context.thread_count = 1  # recordings are cut in parallel
    number, is_whole = 0, True  # damage lasts until the next key frame
    for packet in container.demux(stream):
        try:
            frames: list[av.VideoFrame | None] = list(packet.decode())
        except av.FFmpegError:
            frames = [None]
        for frame in frames:
            pts = None if frame is None else frame.pts
            time_s = float(picture.times_s[picture.number_of(pts, number)])
            number += 1
            if frame is None or frame.is_corrupt:
                is_whole = False
            elif frame.key_frame:
                is_whole = True
            yield time_s, frame if is_whole else None


class _Half:
    """Turns frames upright and crops them to one half.

    Height and width are made even: yuv420p stores one colour for each 2 x 2 pixels.
    """

    def __init__(self, stream: av.VideoStream, half: str, orientation: Orientation) -> None:
        width, height = orientation.size(stream.width, stream.height)
        self.width, self.height = max(2, width // 4 * 2), max(2, height // 2 * 2)
        self.rate = stream.average_rate or Fraction(25)
        aspect = stream.sample_aspect_ratio
        self.pixel_aspect = 1 / aspect if aspect and orientation.is_transposed else aspect
        left = 0 if half == "left" else width - self.width
        self._graph = Graph()
        self._graph.link_nodes(
            self._graph.add_buffer(template=stream),
            *(self._graph.add(name, args) for name, args in orientation.filters),
            self._graph.add("crop", f"{self.width}:{self.height}:{left}:0"),
            self._graph.add("format", "yuv420p"),
            self._graph.add("buffersink"),
        ).configure()

    def of(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Crop a frame."""
        self._graph.push(frame)
        half = self._graph.pull()
        assert isinstance(half, av.VideoFrame)  # a crop gives one frame for each
        return half


class _Clip:
    """The state of one clip: waiting for its first frame, being written, or done."""

    def __init__(self, cut: Cut, unfinished: Path, frame_s: float) -> None:
        self.failure: str | None = None
        self.is_done = False
        self._cut = cut
        self._unfinished = unfinished
        self._frame_s = frame_s
        self._file: _File | None = None

    def check(self, picture_s: float) -> None:
        """Refuse a span that is empty, or not within a recording of this length."""
        cut = self._cut
        span = f"{cut.start_s:g} to {cut.end_s:g} s"
        if not 0 <= cut.start_s < cut.end_s:
            self._fail(f"{cut.source}: {span} is not a time span of a clip")
        elif cut.end_s > picture_s + MAX_SHORT_S:
            self._fail(f"{cut.source}: its picture ends at {picture_s:.2f} s, before {span}")

    def show(self, time_s: float, frame: av.VideoFrame | None, halves: dict[str, _Half]) -> None:
        """Add a frame if it is shown within the clip; finish the clip after its last frame."""
        cut = self._cut
        if self.is_done or time_s + self._frame_s <= cut.start_s + _SAME_S:
            return
        if time_s >= cut.end_s - _SAME_S:
            self.finish()
        elif frame is None:
            self._fail(
                f"{cut.source}: its picture is damaged near {time_s:.2f} s; "
                "copy or download it again"
            )
        else:
            with self._writing():
                if self._file is None:
                    self._file = _File(self._unfinished, halves[cut.half], cut.sound)
                self._file.add(frame, max(0.0, time_s - cut.start_s))

    def finish(self) -> None:
        """Close the file and rename it to the clip's path; do nothing if that was done."""
        if self.is_done:
            return
        if self._file is None:
            self._fail(f"{self._cut.source}: no frame at {self._cut.start_s:g} s can be decoded")
            return
        with self._writing():
            self._file.close()
            self._unfinished.replace(self._cut.clip)
            self.is_done = True

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn an error inside into the failure of this clip."""
        try:
            yield
        except MediaError as error:
            self._fail(str(error))
        except (av.FFmpegError, OSError, ValueError) as error:
            self._fail(f"{self._cut.clip}: cannot be written ({reason(error)})")

    def _fail(self, why: str) -> None:
        self.failure, self.is_done, self._file = why, True, None
        self._unfinished.unlink(missing_ok=True)


class _File:
    """An mp4 that is being written: frames first, then the sound when it is closed."""

    def __init__(self, path: Path, half: _Half, sound: Path) -> None:
        self._half = half
        self._waveform = _read_sound(sound)
        self._out = av.open(str(path), "w", format="mp4")
        options = {"preset": "veryfast", "crf": "20", "threads": "1"}
        self._picture = self._out.add_stream("libx264", rate=half.rate, options=options)
        self._picture.width, self._picture.height = half.width, half.height
        self._picture.pix_fmt, self._picture.codec_context.time_base = "yuv420p", TICK
        if half.pixel_aspect:
            self._picture.codec_context.sample_aspect_ratio = half.pixel_aspect
        self._sound = self._out.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        self._sound.bit_rate = 64_000

    def add(self, frame: av.VideoFrame, time_s: float) -> None:
        """Write the half of a frame, shown from this time on."""
        half = self._half.of(frame)
        half.pts, half.time_base = round(time_s / TICK), TICK
        half.pict_type = av.video.frame.PictureType.NONE
        self._out.mux(self._picture.encode(half))

    def close(self) -> None:
        """Write the sound and the index."""
        self._out.mux(self._picture.encode(None))
        sound = av.AudioFrame.from_ndarray(self._waveform[None, :], format="fltp", layout="mono")
        sound.sample_rate, sound.pts = (
            SAMPLE_RATE,
            0,
        )  # pts 0: otherwise the encoder's delay would be audible
        self._out.mux(self._sound.encode(sound))
        self._out.mux(self._sound.encode(None))
        self._out.close()


def _read_sound(path: Path) -> np.ndarray:
    """Read a clip's sound, [S] float32."""
    request = ClipRequest(Sampling.count(1), SAMPLE_RATE, want_video=False, want_audio=True)
    read = read_clip(None, path, request)
    if read.waveform is None:
        raise MediaError(f"{path}: has no samples; copy or download it again")
    if read.notes:  # a fault of the sound would not show in the clip
        raise MediaError(f"{path}: {read.notes[0].text}; copy or download it again")
    return np.ascontiguousarray(read.waveform)
