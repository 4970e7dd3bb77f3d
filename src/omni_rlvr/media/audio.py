"""Sound of a clip as one mono waveform: PyAV for a container's track, soundfile for a sidecar.

Both decode at the file's own rate; the mean over channels and the resampling are done here. Not
with decord.AudioReader 0.6: its mono is ``sqrt(1/2) * (left + right)``, its multi-channel output is
uninitialised memory (that is where NaN came from), its resampler starts anew at every packet, it
keeps Matroska's codec delay, leaks each waveform, and takes two to three times as long as PyAV.
"""

from __future__ import annotations

import io
import math

import av
import numpy as np
import soundfile

from omni_rlvr.media.container import Sound, open_container


def read_track(data: bytes, sound: Sound, *, sample_rate: int) -> np.ndarray | None:
    """Decode the sound track of a container.

    Args:
        data: The whole file.
        sound: Its sound track, as ``container.look_into`` found it.
        sample_rate: Wanted rate, Hz.

    Returns:
        [S] float32 mono in [-1, 1], or None when the track holds no samples.

    Raises:
        ValueError: If FFmpeg has no decoder for the sound.
    """
    if sound.sample_rate == 0:
        raise ValueError("there is no decoder for its codec")
    return _finish(_decode(data, sound), sound.sample_rate, sample_rate)


def read_sidecar(data: bytes, *, sample_rate: int) -> np.ndarray | None:
    """Decode a sound file that libsndfile knows (wav, flac, ogg, mp3).

    Returns:
        [S] float32 mono in [-1, 1] at ``sample_rate`` Hz, or None when the file holds no samples.

    Raises:
        soundfile.LibsndfileError: If libsndfile does not know the format.
    """
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return _finish(samples.mean(axis=1), rate, sample_rate)


def _decode(data: bytes, sound: Sound) -> np.ndarray:
    """Decode any number of channels at their own rate and take the mean."""
    resampler = av.AudioResampler(format="fltp", rate=sound.sample_rate)
    parts = [np.zeros(0, dtype=np.float32)]
    with open_container(data) as container:
        stream = container.streams[sound.stream]
        assert isinstance(stream, av.AudioStream)
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            parts += [part.to_ndarray().mean(axis=0) for part in resampler.resample(frame)]
    return np.concatenate(parts)


def _finish(mono: np.ndarray, rate: int, sample_rate: int) -> np.ndarray | None:
    """Bring to the wanted rate; not-a-number and infinity become silence."""
    if len(mono) == 0:
        return None
    mono = np.nan_to_num(mono, nan=0.0, posinf=0.0, neginf=0.0)
    if rate != sample_rate:
        from scipy.signal import resample_poly  # slow to import, and often not needed

        common = math.gcd(rate, sample_rate)
        mono = resample_poly(mono, sample_rate // common, rate // common)
    return np.clip(mono, -1.0, 1.0).astype(np.float32)
