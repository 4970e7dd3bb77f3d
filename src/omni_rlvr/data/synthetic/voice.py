"""Synthesise the voice of a clip with a source-filter model, from five vocal cues.

A glottal pulse train follows a fundamental-frequency contour; vowel formants colour it; syllables
shape its loudness. Speakers differ in pitch and vocal tract length. ``other`` voices (a creaky or
childlike source, other vowels, a noisy room) make the out-of-distribution set. Nothing here knows
about emotions.

Reference: Fant, Acoustic Theory of Speech Production (1960).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

SAMPLE_RATE = 16_000
"""Sample rate of the synthesised sound, in Hz."""

_PITCH_SEMITONES = {"middle": 0.0, "high": 7.0, "low": -5.0}
_MELODY_SEMITONES = {"flat": 0.5, "lively": 3.6}
_ENERGY_DB = {"moderate": -19.0, "loud": -9.0, "soft": -29.0}
_RATE_HZ = {"even": 3.8, "fast": 6.2, "slow": 2.2}
_TREMOR = {"steady": 0.0, "trembling": 1.0}
_VOWELS = np.array(
    [[730, 1090, 2440], [530, 1840, 2480], [270, 2290, 3010], [570, 840, 2410], [440, 1020, 2240]]
)
_OTHER_VOWELS = np.array(
    [[640, 1190, 2390], [490, 1350, 1690], [300, 870, 2240], [660, 1720, 2410]]
)


@dataclass(frozen=True)
class Speaker:
    """The speaker and the recording conditions: all that does not depend on emotion."""

    base_hz: float
    tract: float
    vowels: np.ndarray
    breath: float
    jitter: float
    room_db: float
    gain_db: float


def draw_speaker(kind: str, rng: np.random.Generator) -> Speaker:
    """Draw a speaker of ``kind`` ("usual" or "other") and the recording's level and noise."""
    other = kind == "other"
    base = rng.uniform(125.0, 205.0)
    if other:
        base = rng.choice([rng.uniform(105.0, 130.0), rng.uniform(200.0, 235.0)])
    return Speaker(
        base_hz=float(base),
        tract=float(0.86 + 0.3 * (base - 105.0) / 130.0 + rng.normal(0, 0.03)),
        vowels=_OTHER_VOWELS if other else _VOWELS,
        breath=float(rng.uniform(0.03, 0.10) + 0.06 * other),
        jitter=float(rng.uniform(0.002, 0.008) + 0.008 * other),
        room_db=float(rng.uniform(-62.0, -46.0) + 6.0 * other),
        gain_db=float(rng.normal(0.0, 2.5)),
    )


def synthesise(
    speaker: Speaker, cues: Mapping[str, str], duration_s: float, rng: np.random.Generator
) -> np.ndarray:
    """Synthesise speech-like sound that shows the five vocal cues.

    Args:
        speaker: from ``draw_speaker``.
        cues: pitch, melody, energy, rate and tremor values.
        duration_s: length in seconds.
        rng: draws how strongly each cue is shown, the contour, the vowels and the noise.

    Returns:
        [S] float32 in [-1, 1] at ``SAMPLE_RATE``.
    """
    num_samples = int(duration_s * SAMPLE_RATE)
    t = np.arange(num_samples) / SAMPLE_RATE
    rate = _RATE_HZ[cues["rate"]] * rng.uniform(0.85, 1.18)
    f0 = _contour(speaker, cues, t, rng)
    source = _glottal_source(f0, speaker, cues, rng)
    envelope = _syllables(t, rate, rng) * (
        1 + 0.6 * _TREMOR[cues["tremor"]] * np.sin(2 * np.pi * 7.5 * t + 1.0)
    )
    voice = _formants(source, t, rate, speaker, rng) * np.clip(envelope, 0, None)
    level = _ENERGY_DB[cues["energy"]] + speaker.gain_db + rng.normal(0, 1.8)
    voice *= 10 ** (level / 20) / (np.sqrt(np.mean(voice**2)) + 1e-9)
    voice += rng.standard_normal(num_samples) * 10 ** (speaker.room_db / 20)
    return np.clip(voice, -1.0, 1.0).astype(np.float32)


def _contour(
    speaker: Speaker, cues: Mapping[str, str], t: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the fundamental frequency in Hz: level, fall, melody, tremor, jitter of cycles."""
    strength = rng.uniform(0.75, 1.15)
    melody = _MELODY_SEMITONES[cues["melody"]] * rng.uniform(0.7, 1.2)
    wave = np.sin(2 * np.pi * rng.uniform(0.7, 1.3) * t + rng.uniform(0, 2 * np.pi))
    wave += 0.5 * np.sin(2 * np.pi * rng.uniform(1.8, 2.6) * t + rng.uniform(0, 2 * np.pi))
    tremor = 0.7 * _TREMOR[cues["tremor"]] * np.sin(2 * np.pi * rng.uniform(6.5, 8.5) * t)
    semitones = _PITCH_SEMITONES[cues["pitch"]] * strength - 0.8 * t + melody * wave + tremor
    wobble = lfilter([0.02], [1, -0.98], rng.standard_normal(t.size)) * speaker.jitter * 8
    return speaker.base_hz * 2 ** (semitones / 12) * (1 + wobble)


def _glottal_source(
    f0: np.ndarray, speaker: Speaker, cues: Mapping[str, str], rng: np.random.Generator
) -> np.ndarray:
    """Make a pulse train with breath noise; louder voices have a flatter spectrum."""
    phase = np.cumsum(f0 / SAMPLE_RATE) % 1.0
    pulse = np.where(phase < 0.6, np.sin(np.pi * phase / 0.6) ** 2, 0.0)
    pulse = np.diff(pulse, prepend=0.0) * 20
    tilt = {"moderate": 0.75, "loud": 0.45, "soft": 0.9}[cues["energy"]]
    return lfilter([1 - tilt], [1, -tilt], pulse + rng.standard_normal(f0.size) * speaker.breath)


def _syllables(t: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    """Make an amplitude envelope with ``rate`` swells a second, some of them weak."""
    phase = rate * t + rng.uniform(0, 1)
    strength = rng.uniform(0.55, 1.0, int(phase[-1]) + 2)[phase.astype(int)]
    return strength * np.sin(np.pi * (phase % 1.0)) ** 1.2


def _formants(
    source: np.ndarray, t: np.ndarray, rate: float, speaker: Speaker, rng: np.random.Generator
) -> np.ndarray:
    """Filter each syllable through three resonators of a random vowel."""
    edges = np.append(np.arange(0, t[-1], 1 / rate), t[-1] + 1)
    voice = np.empty_like(source)
    for start, stop in itertools.pairwise(edges):
        part = slice(*np.searchsorted(t, [start, stop]))
        sound = source[part]
        for hz in speaker.vowels[rng.integers(len(speaker.vowels))] * speaker.tract:
            radius = np.exp(-np.pi * (60 + 0.05 * hz) / SAMPLE_RATE)
            cosine = np.cos(2 * np.pi * hz / SAMPLE_RATE)
            denominator = [1, -2 * radius * cosine, radius * radius]
            sound = lfilter([sum(denominator)], denominator, sound)
        voice[part] = sound
    return voice
