"""Decode a clip's sound to one mono waveform, with PyAV for containers and soundfile for sidecars.

A sidecar is a separate sound file. Both libraries decode at the file's own rate. Each stretch of
samples of one rate is averaged over channels, resampled, and placed by its time stamps, all in this
file. decord.AudioReader 0.6 is not used: its mono is ``sqrt(1/2) * (left + right)``, its
multi-channel output is uninitialised memory (it may hold NaN), its resampler restarts at every
packet, it keeps Matroska's codec delay, leaks each waveform, and is two to three times slower.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np
import soundfile

from omni_rlvr.media.container import Sound, decoding, open_container
from omni_rlvr.media.limits import in_force
from omni_rlvr.media.timeline import NO_TIMES, is_joint, is_short, tick_s_of
from omni_rlvr.types import ClipNote, MediaError

MIN_GAP_S = 0.01
"""Seconds (or half a packet, if longer) up to which a jump in the time stamps is no gap but
rounding."""
MAX_OVERLAP_S = 0.1
"""Seconds; time stamps that go back by more are wrong: the sound then continues without a jump."""
MAX_SILENCE_S = 3600.0
"""Most seconds of silence that gaps in the time stamps may add up to."""
MAX_OVERSHOOT = 2.0
"""Peak up to which the sound of an integer or lossy codec is clipped to 1, as players do."""
MAX_LOUD = 8.0
"""Peak up to which samples are taken for floats that are too loud, and above which for 16-, 24- or
32-bit integers stored as floats."""
FULL_SCALES = (2.0**15, 2.0**23, 2.0**31)
MAX_SILENCED_SHARE = 0.1
"""Share of samples that may be NaN or infinite; with more of them the file is broken."""
MAX_DAMAGED_SHARE = 0.1
"""Share of packets (at least one) that may be undecodable, as where files were joined or cut."""
MAX_FRAMES_A_BYTE = 1000
"""Samples a byte above which libsndfile's length is not real: it does not know the length."""
FLOATS = ("FLOAT", "DOUBLE")
LOSSLESS = ("PCM", "ALAC", "ULAW", "ALAW", *FLOATS)


@dataclass(frozen=True)
class Heard:
    """The decoded sound of a clip."""

    waveform: np.ndarray
    """[S] float32 mono in [-1, 1]; sample k belongs to second k / rate of the file."""
    notes: tuple[ClipNote, ...]
    is_padded: bool
    """Whether the codec may have added silence at either end, as codecs that work in packets do."""
    decoded_s: float
    """Length of the decoded sound without the silence that fills gaps."""


@dataclass
class _Stretch:
    """Samples of one rate without a gap between them."""

    start_s: float
    rate: int
    parts: list[np.ndarray] = field(default_factory=list)
    num_samples: int = 0

    @property
    def end_s(self) -> float:
        return self.start_s + self.num_samples / self.rate

    def resampled(self, sample_rate: int) -> np.ndarray:
        """Join the samples and bring them to another rate, [S]."""
        mono = np.concatenate(self.parts)
        if self.rate == sample_rate:
            return mono
        from scipy.signal import resample_poly  # slow to import, and often not needed

        return resample_poly(mono, sample_rate, self.rate)


class _DecodedSound:
    """The sound decoded so far, as stretches on the time axis of the file, and its faults."""

    def __init__(self) -> None:
        self.stretches: list[_Stretch] = []
        self.gaps_s: list[tuple[float, float]] = []
        self.peak = 0.0
        self.num_silenced = 0
        self._shift_s = 0.0  # added to time stamps after they jumped back

    def add(
        self, channels: np.ndarray, rate: int, start_s: float | None, *, is_joined: bool = False
    ) -> None:
        """Add samples at their start time, or right after the samples so far.

        Args:
            channels: [channels, S] floats.
            rate: Sample rate, Hz.
            start_s: Seconds from the start of the file; None for right after the samples so far.
            is_joined: Whether a joined recording begins here: silence before it is not a gap.
        """
        num_samples = channels.shape[1]
        last = self.stretches[-1] if self.stretches else None
        end_s = 0.0 if last is None else last.end_s
        step_s = 0.0 if start_s is None else start_s + self._shift_s - end_s
        if step_s < -MAX_OVERLAP_S and last is not None:
            self._shift_s -= step_s
            step_s = 0.0
        begins = last is None or is_joined
        if abs(step_s) <= (MIN_GAP_S if begins else max(MIN_GAP_S, num_samples / rate / 2)):
            step_s = 0.0
        elif step_s > 0 and not begins:
            self.gaps_s.append((end_s, step_s))
        if last is None or step_s or rate != last.rate:
            if problem := in_force().sound_problem(rate, 0.0, len(channels)):
                raise ValueError(problem)
            last = _Stretch(max(0.0, end_s + step_s), rate)
            self.stretches.append(last)
        last.parts.append(self._mono(channels))
        last.num_samples += num_samples

    def _mono(self, channels: np.ndarray) -> np.ndarray:
        """Take the mean over channels; NaN and infinite samples become silence and are counted."""
        is_number = np.isfinite(channels).all(axis=0)
        if not is_number.all():
            self.num_silenced += int((~is_number).sum())
            channels = np.where(is_number, channels, 0.0).astype(channels.dtype)
        self.peak = max(self.peak, float(np.abs(channels).max(initial=0.0)))
        return channels.mean(axis=0)

    def finish(
        self, sample_rate: int, *, promised_s: float, is_float: bool, is_padded: bool
    ) -> Heard | None:
        """Resample everything to one rate and scale it into [-1, 1]; None if there is no sample.

        Args:
            sample_rate: Wanted rate, Hz.
            promised_s: Length of the sound according to the file, seconds.
            is_float: Whether the samples were stored as floats.
            is_padded: As in ``Heard``.

        Raises:
            ValueError: The samples or their time stamps make no sense.
        """
        num_samples = sum(s.num_samples for s in self.stretches)
        if num_samples == 0:
            return None
        if self.num_silenced > MAX_SILENCED_SHARE * num_samples:
            raise ValueError(f"{self.num_silenced} of {num_samples} samples are NaN or infinite")
        silence_s = self.stretches[0].start_s + sum(gap_s for _, gap_s in self.gaps_s)
        if silence_s > MAX_SILENCE_S:
            raise ValueError(f"its time stamps leave {silence_s:.0f} s without sound")
        scale = _full_scale(self.peak, is_float=is_float)
        waves = [s.resampled(sample_rate) for s in self.stretches]
        spans = [
            slice(start := round(s.start_s * sample_rate), start + len(wave))
            for s, wave in zip(self.stretches, waves, strict=True)
        ]
        waveform = waves[0]
        if len(waves) > 1 or spans[0].start > 0:
            waveform = np.zeros(max(span.stop for span in spans), dtype=waves[0].dtype)
            for span, wave in zip(spans, waves, strict=True):
                waveform[span] = wave
        waveform = np.clip(waveform / scale, -1.0, 1.0).astype(np.float32)
        decoded_s = sum(s.num_samples / s.rate for s in self.stretches)
        notes = tuple(self._notes(scale, decoded_s, promised_s))
        return Heard(waveform, notes, is_padded, decoded_s)

    def _notes(self, scale: float, decoded_s: float, promised_s: float) -> Iterator[ClipNote]:
        gaps_s = sum(gap_s for _, gap_s in self.gaps_s)
        if is_short(decoded_s + gaps_s, promised_s):
            text = f"only {decoded_s:.2f} of the {promised_s:.2f} s of its sound can be decoded"
            yield ClipNote("short", text)
        if self.gaps_s:
            places = f"{len(self.gaps_s)} places, the first" if len(self.gaps_s) > 1 else "a gap"
            first_s = self.gaps_s[0][0]
            text = f"{gaps_s:.2f} s of its sound are missing, in {places} at {first_s:.2f} s"
            yield ClipNote("sound_gaps", f"{text}; the gaps are filled with silence")
        if scale != 1.0:
            text = f"its samples reach {self.peak:g} where 1 is full scale"
            yield ClipNote("scaled_sound", f"{text}; all are divided by {scale:g}")
        if self.num_silenced:
            text = f"{self.num_silenced} of its samples are NaN or infinite"
            yield ClipNote("silenced_samples", f"{text}; they are replaced by silence")


def read_track(data: bytes, sound: Sound, path: Path, *, sample_rate: int) -> Heard | None:
    """Decode the sound track of a container.

    Args:
        data: The whole file.
        sound: Its sound track, as ``container.look_into`` found it.
        path: Where the file came from, for messages.
        sample_rate: Wanted rate, Hz.

    Returns:
        The sound, or None when the track holds no samples.

    Raises:
        MediaError: FFmpeg has no decoder for the sound, or its samples make no sense.
    """
    decoded, resampler, previous = _DecodedSound(), None, None
    part, before_s = 0, None
    with decoding(path, "sound track"), open_container(data) as container:
        packets = _Packets(container, sound)
        has_times = container.format.name not in NO_TIMES
        for frame in packets.frames():
            form = (frame.sample_rate, frame.layout.name, frame.format.name)
            if resampler is None or form != previous:  # joined recordings may differ in it
                resampler, previous = av.AudioResampler(format="fltp", rate=frame.sample_rate), form
            is_joined, start_s = False, None
            if frame.time is not None:
                step_s = 0.0 if before_s is None else frame.time - before_s
                is_joined = is_joint(step_s, sound.max_gap_s)
                part = min(part + is_joined, len(sound.shifts_s) - 1)
                before_s = frame.time
                start_s = frame.time + sound.shifts_s[part] if has_times else None
            for piece in resampler.resample(frame):
                decoded.add(piece.to_ndarray(), piece.sample_rate, start_s, is_joined=is_joined)
        packets.refuse_damage(has_samples=bool(decoded.stretches))
        # Without time stamps FFmpeg assumes one rate: with several, its length is wrong.
        is_wrong = not has_times and len({s.rate for s in decoded.stretches}) > 1
        heard = decoded.finish(
            sample_rate,
            promised_s=0.0 if is_wrong else sound.promised_s,
            is_float=packets.codec.startswith("pcm_f"),
            is_padded=not packets.codec.startswith(("pcm_", "flac", "alac")),
        )
    return heard and replace(heard, notes=(*packets.notes, *heard.notes))


def has_samples(data: bytes, sound: Sound, path: Path) -> bool:
    """Decode a sound track up to its first samples; arguments and errors as ``read_track``."""
    with decoding(path, "sound track"), open_container(data) as container:
        packets = _Packets(container, sound)
        found = any(True for _ in packets.frames())
        packets.refuse_damage(has_samples=found)
    return found


class _Packets:
    """Decodes the packets of a sound track, leaving out and counting those that cannot be.

    Raises:
        ValueError: FFmpeg has no decoder for the sound.
    """

    def __init__(self, container: av.container.InputContainer, sound: Sound) -> None:
        if sound.sample_rate == 0:
            raise ValueError("there is no decoder for its codec")
        self._packets = container.demux(container.streams[sound.stream])
        codec = container.streams[sound.stream].codec_context
        codec.thread_count = 1
        self.codec = codec.name
        self._num_packets = 0
        self._damaged: list[tuple[float | None, av.InvalidDataError]] = []

    def frames(self) -> Iterator[av.AudioFrame]:
        """Decode packet by packet."""
        for packet in self._packets:
            self._num_packets += packet.size > 0
            try:
                frames = packet.decode()
            except av.InvalidDataError as error:
                time = packet.dts if packet.pts is None else packet.pts
                time_s = None if time is None else float(time * tick_s_of(packet))
                self._damaged.append((time_s, error))
                continue
            for frame in frames:
                assert isinstance(frame, av.AudioFrame)  # of a sound track
                yield frame

    def refuse_damage(self, *, has_samples: bool) -> None:
        """Raise the decoder's first error if too many packets were left out or nothing remains."""
        most = max(1, int(MAX_DAMAGED_SHARE * self._num_packets)) if has_samples else 0
        if len(self._damaged) > most:
            raise self._damaged[0][1]

    @property
    def notes(self) -> tuple[ClipNote, ...]:
        """A note on the packets that were left out, if any."""
        if not self._damaged:
            return ()
        time_s, _ = self._damaged[0]
        where = "" if time_s is None else f", the first near {time_s:.2f} s"
        text = (
            f"{len(self._damaged)} of the {self._num_packets} packets of its sound cannot be "
            f"decoded and count as missing{where}"
        )
        return (ClipNote("damaged_sound", text),)


def read_sidecar(parts: Sequence[bytes], path: Path, *, sample_rate: int) -> Heard | None:
    """Decode a sound file of a format that libsndfile supports (wav, flac, ogg, mp3).

    Args:
        parts: The bytes of the file, or of each of the files that were joined into it.
        path: Where the file came from, for messages.
        sample_rate: Wanted rate, Hz.

    Returns:
        The sound, or None when the file holds no samples.

    Raises:
        soundfile.LibsndfileError: libsndfile cannot read the file.
        MediaError: The file exceeds a limit.
        ValueError: Its samples make no sense.
    """
    decoded, subtypes, promised_s = _DecodedSound(), [], 0.0
    for file in _sound_files(parts, path):
        dtype = "float64" if file.subtype == "DOUBLE" else "float32"
        samples = file.read(dtype=dtype, always_2d=True)
        decoded.add(samples.T, file.samplerate, None)
        subtypes.append(file.subtype)
        promised_s += file.frames / file.samplerate
    return decoded.finish(
        sample_rate,
        promised_s=promised_s,
        is_float=any(name in FLOATS for name in subtypes),
        is_padded=not all(name.startswith(LOSSLESS) for name in subtypes),
    )


def sidecar_s(parts: Sequence[bytes], path: Path) -> float:
    """Read the length in seconds from a sound file's header; arguments as ``read_sidecar``."""
    return sum(file.frames / file.samplerate for file in _sound_files(parts, path))


def _sound_files(parts: Sequence[bytes], path: Path) -> Iterator[soundfile.SoundFile]:
    """Open each part in turn; the previous one is closed."""
    for part in parts:
        with soundfile.SoundFile(io.BytesIO(part)) as file:
            if file.frames > len(part) * MAX_FRAMES_A_BYTE:
                raise soundfile.LibsndfileError(0, "The header has no length: ")
            seconds = file.frames / file.samplerate
            if problem := in_force().sound_problem(file.samplerate, seconds, file.channels):
                raise MediaError(f"{path}: {problem}")
            yield file


def _full_scale(peak: float, *, is_float: bool) -> float:
    """Find the number to divide samples by so that they are in [-1, 1].

    Args:
        peak: The largest absolute value.
        is_float: Whether the file stores floats; other codecs may overshoot 1 a little.

    Raises:
        ValueError: The peak is above any known full scale.
    """
    if peak <= (1.0 if is_float else MAX_OVERSHOOT):
        return 1.0
    if peak <= MAX_LOUD:
        return peak
    full = next(
        (full for full in FULL_SCALES if peak <= 1.5 * full), None
    )  # a filter may exceed full scale
    if full is None:
        raise ValueError(f"its samples reach {peak:g}, where 1 is full scale")
    return max(full, peak)
