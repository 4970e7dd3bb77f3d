"""The contact sheet: frames, sound and words of each clip, and what is said when one is missing."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest

from omni_rlvr.tasks.dataset.mel import NUM_MELS, log_mel
from omni_rlvr.tasks.dataset.preview import preview_sheet
from omni_rlvr.types import Clip, Example, Sample

RATE = 16000


def sample(
    *, num_frames: int = 0, height: int = 24, sound: np.ndarray | None = None, target: str = "hm"
) -> Sample:
    frames, times = None, None
    if num_frames:
        frames = np.full((num_frames, height, 32, 3), 7, dtype=np.uint8)
        times = np.arange(num_frames) * 0.5
    example = Example(
        id="clips/000012.mp4", question="?", answer="happy", target=target, video=None
    )
    return Sample(example, Clip(frames, sound, duration_s=2.5, frame_times_s=times))


def tone(hz: float, *, amplitude: float = 1.0, seconds: float = 1.0) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE).astype("f4")


def sheet(tmp_path, *samples: Sample, max_reasoning_chars: int = 500):
    return preview_sheet(
        samples,
        tmp_path / "sub" / "sheet.png",
        sample_rate=RATE,
        max_reasoning_chars=max_reasoning_chars,
    )


def words(axes) -> str:
    return "\n".join(text.get_text().strip() for text in axes.texts)


@pytest.mark.slow
def test_a_row_holds_frames_sound_and_words(tmp_path):
    target = "<think>He smiles.</think>\n<answer>happy</answer>"
    clip = sample(num_frames=3, sound=tone(440), target=target)
    figure = sheet(tmp_path, clip, clip)
    assert len(figure.axes) == 6
    picture, sound, text = figure.axes[:3]
    # Three frames 32 wide with two gaps of 4: 3 * 32 + 2 * 4 = 104; gaps are white, frames kept.
    strip = picture.images[0].get_array()
    assert strip.shape == (24, 104, 3)
    assert (strip[:, :32] == 7).all()
    assert (strip[:, 32:36] == 255).all()
    assert [t.get_text() for t in picture.get_xticklabels()] == ["0.0 s", "0.5 s", "1.0 s"]
    assert sound.images[0].get_array().shape[0] == NUM_MELS
    assert sound.images[0].get_extent()[1] == 1.0  # seconds
    assert words(text).startswith("clips/000012.mp4  (2.5 s)\ngold: happy\n<think>He smiles.")
    assert "<answer>happy</answer>" in words(text)
    pixels = matplotlib.image.imread(tmp_path / "sub" / "sheet.png")
    assert pixels.shape[0] > 350
    assert pixels.shape[1] > 1500


def test_missing_modalities_are_named(tmp_path):
    figure = sheet(
        tmp_path, sample(num_frames=2), sample(sound=tone(440)), sample(sound=np.zeros(0, "f4"))
    )
    assert [words(axes) for axes in figure.axes[0::3]] == ["", "no picture", "no picture"]
    assert [words(axes) for axes in figure.axes[1::3]] == ["no sound track", "", "no sound track"]


def test_many_large_frames_are_thinned(tmp_path):
    figure = sheet(tmp_path, sample(num_frames=16, height=960))
    # Eight of sixteen; every fourth pixel (960 // 240): 240 high, 8 wide each and 7 gaps of 4.
    assert figure.axes[0].images[0].get_array().shape == (240, 8 * 8 + 7 * 4, 3)
    ticks = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert len(ticks) == 8
    assert (ticks[0], ticks[-1]) == ("0.0 s", "7.5 s")


def test_long_reasoning_is_cut_wrapped_and_makes_the_row_taller(tmp_path):
    target = "word " * 400
    long = sheet(tmp_path, sample(target=target), max_reasoning_chars=1500)
    text = words(long.axes[2])
    assert text.endswith("...")
    assert max(map(len, text.splitlines())) <= 76
    assert text.count("word") == 300  # 1500 characters of 5 each
    short = sheet(tmp_path, sample(target=target), max_reasoning_chars=50)
    assert words(short.axes[2]).count("word") == 10
    assert long.get_figheight() > short.get_figheight()


def test_dollars_and_unknown_scripts_do_no_harm(tmp_path):
    sheet(tmp_path, sample(target="costs $5 or $x^{$ \\frac, 高兴"))


def test_no_sample_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one sample"):
        sheet(tmp_path)


@pytest.mark.parametrize("hz", [200.0, 1000.0, 4000.0])
def test_a_tone_lights_the_mel_row_of_its_frequency(hz):
    row = log_mel(tone(hz), sample_rate=RATE).mean(axis=1).argmax()
    # Centres are even in mel: row k stands at (k + 1) / (NUM_MELS + 1) of the mel of 8 kHz.
    mel = 2595 * np.log10(1 + np.array([hz, RATE / 2]) / 700)
    assert abs(row - (mel[0] / mel[1] * (NUM_MELS + 1) - 1)) <= 1


def test_levels_are_decibels():
    loud = log_mel(tone(1000), sample_rate=RATE)[:, 20:80].max()
    soft = log_mel(tone(1000, amplitude=0.1), sample_rate=RATE)[:, 20:80].max()
    # A tenth of the amplitude is a hundredth of the power: 20 dB.
    assert loud - soft == pytest.approx(20.0, abs=0.1)
    # One full-scale tone: (1/2)^2 of full scale is -6 dB at its bin, summed over the mel triangle.
    assert -7.0 < loud < 3.0
    assert (log_mel(np.zeros(800, "f4"), sample_rate=RATE) < -99.9).all()


def test_one_column_a_hop_of_ten_milliseconds():
    assert log_mel(tone(440, seconds=2.0), sample_rate=RATE).shape == (NUM_MELS, 201)
    assert log_mel(tone(440, seconds=0.002), sample_rate=RATE).shape == (NUM_MELS, 1)


def test_every_mel_row_hears_something():
    noise = np.random.default_rng(0).standard_normal(RATE).astype("f4")
    assert log_mel(noise, sample_rate=RATE).mean(axis=1).min() > -60.0
