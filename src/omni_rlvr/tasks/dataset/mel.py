"""Compute log-mel spectrograms for people to look at; models get theirs from ``data.collate``."""

from __future__ import annotations

import numpy as np
import torch

NUM_MELS = 64
FFT_SIZE = 1024
WINDOW_S, HOP_S = 0.025, 0.010
LOUDNESS_DB = (-90.0, -10.0)
"""Ends of the colour scale, in dB: the same for all clips, so that a quiet clip looks quiet."""


def log_mel(waveform: np.ndarray, *, sample_rate: int) -> np.ndarray:
    """Compute a log-mel spectrogram: Hann window of 25 ms, hop of 10 ms, triangular filters.

    ``10 log10(mel @ |STFT / sum(window)|^2)``

    Args:
        waveform: [S] float32 mono in [-1, 1], S > 0.
        sample_rate: In Hz.

    Returns:
        [NUM_MELS, L] float32 in dB, 0 dB near full scale, about -100 dB at the least.
    """
    size = round(WINDOW_S * sample_rate)
    fft_size = max(FFT_SIZE, size)
    window = torch.hann_window(size)
    spectrum = torch.stft(
        torch.as_tensor(waveform, dtype=torch.float32),
        n_fft=fft_size,
        hop_length=round(HOP_S * sample_rate),
        win_length=size,
        window=window,
        pad_mode="constant",
        return_complex=True,
    )
    power = (spectrum.abs() / window.sum()).square().numpy()
    mel = _mel_filters(fft_size, sample_rate) @ power
    return 10.0 * np.log10(np.maximum(mel, 1e-10))


def _mel_filters(fft_size: int, sample_rate: int) -> np.ndarray:
    """Make triangular filters [NUM_MELS, fft_size // 2 + 1], each over three successive edges."""
    edges_hz = mel_edges_hz(sample_rate)
    bins_hz = np.linspace(0.0, sample_rate / 2, fft_size // 2 + 1)
    rise = (bins_hz - edges_hz[:-2, None]) / np.diff(edges_hz)[:-1, None]
    fall = (edges_hz[2:, None] - bins_hz) / np.diff(edges_hz)[1:, None]
    return np.maximum(0.0, np.minimum(rise, fall)).astype(np.float32)


def mel_edges_hz(sample_rate: int) -> np.ndarray:
    """Compute edges [NUM_MELS + 2] in Hz up to the Nyquist rate, evenly spaced in mel (HTK)."""
    top = 2595.0 * np.log10(1.0 + sample_rate / 2 / 700.0)
    return 700.0 * (10.0 ** (np.linspace(0.0, top, NUM_MELS + 2) / 2595.0) - 1.0)
