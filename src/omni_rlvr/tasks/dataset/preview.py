"""Draw a contact sheet of a data set: the frames, the sound and the target of each clip.

One row a clip: its frames as a filmstrip, the log-mel spectrogram of its sound, the gold label and
the annotated turn. All rows share the sound's colour scale, so a quiet clip looks quiet. The
spectrogram is for the eye: models get their own features from ``data.collate``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from omni_rlvr.assembly.composed import Clips, Composed, Place
from omni_rlvr.assembly.splits import read_clips
from omni_rlvr.config.tasks import PreviewTask
from omni_rlvr.data.dataset import ClipDataset, clip_reader
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.tasks.dataset.mel import LOUDNESS_DB, NUM_MELS, log_mel, mel_edges_hz
from omni_rlvr.tasks.lifecycle import recorded
from omni_rlvr.tasks.report.drawing import INK, plain_text, save
from omni_rlvr.text.terminal import printable
from omni_rlvr.types import Clip, Sample, UserError

COLUMNS_IN = (7.2, 3.4, 5.0)
"""Widths of picture, sound and text, in inches."""
LINE_IN = 0.155
"""Height of a line of text, in inches."""
LINE_CHARS = 76
"""Characters of running text that fit on a line of the text column."""
HEAD_LINES = 3
"""Lines above the annotated turn: the clip, its gold label, an empty one."""

MAX_FRAMES = 8
FRAME_PIXELS = 240
"""Frames are reduced to about this height by leaving out pixels."""
GAP_PIXELS = 4


@dataclass(frozen=True)
class PreviewInputs:
    """All that a sheet of clips needs."""

    place: Place
    clips: Clips
    task: PreviewTask


def build(composed: Composed) -> PreviewInputs:
    """Read the split."""
    clips = read_clips(composed, [composed.task.split])
    return PreviewInputs(composed.place, clips, composed.task)


@plain_text
def preview_sheet(
    samples: Sequence[Sample], path: Path, *, sample_rate: int, max_reasoning_chars: int
) -> Figure:
    """Draw one row a sample and save the sheet.

    Args:
        samples: What to show, top to bottom; a dozen makes a page.
        path: The picture to write; its suffix names the format.
        sample_rate: Of the waveforms, in Hz.
        max_reasoning_chars: Where a longer annotated turn is cut.

    Returns:
        The figure, already saved: three axes a row (picture, sound, text).

    Raises:
        ValueError: There is no sample to show.
    """
    if not samples:
        raise ValueError("a preview needs at least one sample, got none")
    texts = [_wrap(sample.example.target, max_chars=max_reasoning_chars) for sample in samples]
    heights = [max(1.5, LINE_IN * (text.count("\n") + HEAD_LINES) + 0.5) for text in texts]
    figure = Figure(figsize=(sum(COLUMNS_IN), sum(heights)), layout="constrained")
    grid = figure.subplots(
        len(samples), 3, squeeze=False, width_ratios=COLUMNS_IN, height_ratios=heights
    )
    for (picture, sound, words), sample, text in zip(grid, samples, texts, strict=True):
        _draw_frames(picture, sample)
        _draw_sound(sound, _clip(sample).waveform, sample_rate=sample_rate)
        _draw_words(words, sample, text)
    return save(figure, path)


def _draw_frames(axes: Axes, sample: Sample) -> None:
    frames, times = _clip(sample).frames, _clip(sample).frame_times_s
    if frames is None or len(frames) == 0:
        _say(axes, "no picture")
        return
    axes.set(xticks=[], yticks=[], frame_on=False)
    picks = np.linspace(0, len(frames) - 1, min(MAX_FRAMES, len(frames))).round().astype(int)
    stride = max(1, frames.shape[1] // FRAME_PIXELS)
    gap = ((0, 0), (0, GAP_PIXELS), (0, 0))
    strip = [np.pad(frames[i, ::stride, ::stride], gap, constant_values=255) for i in picks]
    axes.set_anchor("NW")
    axes.imshow(np.concatenate(strip, axis=1)[:, :-GAP_PIXELS])
    if times is not None:
        step = strip[0].shape[1]
        middles = [(i + 0.5) * step - GAP_PIXELS / 2 for i in range(len(picks))]
        axes.set_xticks(middles, [f"{times[i]:.1f} s" for i in picks], fontsize=7)
        axes.tick_params(length=0)


def _draw_sound(axes: Axes, waveform: np.ndarray | None, *, sample_rate: int) -> None:
    if waveform is None or len(waveform) == 0:
        _say(axes, "no sound track")
        return
    lo, hi = LOUDNESS_DB
    extent = (0.0, len(waveform) / sample_rate, -0.5, NUM_MELS - 0.5)
    mel = log_mel(waveform, sample_rate=sample_rate)
    scale: dict[str, Any] = {"cmap": "magma", "vmin": lo, "vmax": hi}
    axes.imshow(mel, origin="lower", aspect="auto", extent=extent, **scale)
    centres_hz = mel_edges_hz(sample_rate)[1:-1]
    marks_hz = [hz for hz in (250, 500, 1000, 2000, 4000, 8000) if hz < centres_hz[-1]]
    rows = np.interp(marks_hz, centres_hz, np.arange(NUM_MELS))
    axes.set_yticks(rows, [f"{hz / 1000:g} kHz" for hz in marks_hz])
    axes.tick_params(labelsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("s", fontsize=7, labelpad=0)


def _draw_words(axes: Axes, sample: Sample, text: str) -> None:
    """Write the clip's id, its gold label in bold, then the annotated turn."""
    axes.axis("off")
    style: dict[str, Any] = {"va": "top", "fontsize": 8}
    style["transform"] = axes.transAxes
    clip = f"{sample.example.id}  ({_clip(sample).duration_s:.1f} s)"
    axes.text(0, 1, clip, color=INK, **style)
    axes.text(0, 1, f"\ngold: {sample.example.answer}", weight="bold", **style)
    axes.text(0, 1, "\n" * HEAD_LINES + text, **style)


def _wrap(target: str, *, max_chars: int) -> str:
    """Cut the annotated turn at ``max_chars`` and wrap it to the text column."""
    target = target.strip()
    if len(target) > max_chars:
        target = target[:max_chars].rstrip() + " ..."
    lines = [line for part in target.splitlines() for line in textwrap.wrap(part, LINE_CHARS)]
    return "\n".join(lines)


def _say(axes: Axes, words: str) -> None:
    axes.set(xticks=[], yticks=[], frame_on=False)
    axes.text(0.5, 0.5, words, ha="center", va="center", color=INK, transform=axes.transAxes)


def _clip(sample: Sample) -> Clip:
    """Return the clip that was read; a sheet is never made from cached features."""
    assert sample.clip is not None
    return sample.clip


def run(parts: PreviewInputs) -> None:
    """Draw the sheet into the run's folder."""
    task, sample_rate = parts.task, 16_000
    examples = parts.clips.examples[task.split][: task.num_clips]
    used = parts.clips.modality  # without a window: a sheet shows all of a sound
    request = ClipRequest(Sampling.count(8), sample_rate, used.video, used.audio)
    dataset = ClipDataset(examples, clip_reader(parts.clips.dataset), request, None)
    read = [dataset[i] for i in range(len(dataset))]
    samples = [item for item in read if isinstance(item, Sample)]
    if not samples:
        raise UserError(
            f"task.split={task.split}: none of the first {len(examples)} clips could be read"
        )
    path = parts.place.run_dir / "preview.png"
    with recorded(parts.place, device="cpu") as record:
        lost = [(i.example.id, i.reason) for i in read if not isinstance(i, Sample)]
        for _, why in record.add_skipped(lost):
            print(printable(f"left out: {why}"))
        record.add_notes((s.example.id, note) for s in samples for note in s.notes)
        preview_sheet(
            samples, path, sample_rate=sample_rate, max_reasoning_chars=task.max_reasoning_chars
        )
    print(f"preview: {path}")
