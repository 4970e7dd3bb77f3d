"""Puts samples into a batch: prompts padded on the left, targets on the right, media stacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_rlvr.types import Batch, Features, Processing, Sample, SkippedClip


@dataclass(frozen=True)
class Collate:
    """Turns samples into a ``Batch``; runs in the worker process."""

    processor: Processing
    with_target: bool
    """Whether the annotated target becomes ``completion_ids`` (SFT)."""
    feature_dtype: torch.dtype | None = None
    """What a feature cache keeps, or None without one."""

    def __call__(self, items: Sequence[Sample | SkippedClip]) -> Batch:
        """Collates what could be read; what could not is handed on in ``Batch.skipped``."""
        places = [i for i, item in enumerate(items) if isinstance(item, Sample)]
        samples = [item for item in items if isinstance(item, Sample)]
        skipped = [item for item in items if isinstance(item, SkippedClip)]
        pad = self.processor.pad_token_id
        prompt_ids, prompt_mask = pad_rows([self._prompt(s) for s in samples], pad=pad, left=True)
        completion_ids = completion_mask = None
        if self.with_target:
            targets = [self.processor.target_ids(s.example.target) for s in samples]
            completion_ids, completion_mask = pad_rows(targets, pad=pad, left=False)
        return Batch(
            examples=[s.example for s in samples],
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            pixel_values=self._pixels(samples),
            video_rows=_where([s.has_video for s in samples]),
            input_features=self._sounds(samples),
            audio_rows=_where([s.has_audio for s in samples]),
            cached_rows=[i for i, s in enumerate(samples) if s.features is not None],
            features=_stack_features(samples),
            feature_dtype=self.feature_dtype,
            completion_ids=completion_ids,
            completion_mask=completion_mask,
            places=places,
            skipped=skipped,
            notes=[s.notes for s in samples],
        )

    def _prompt(self, sample: Sample) -> list[int]:
        return self.processor.prompt_ids(
            sample.example.question,
            has_video=sample.has_video,
            has_audio=sample.has_audio,
        )

    def _pixels(self, samples: Sequence[Sample]) -> Tensor | None:
        clips = [s.clip for s in samples if s.clip is not None]
        frames = [clip.frames for clip in clips if clip.frames is not None]
        return torch.stack([self.processor.pixel_values(f) for f in frames]) if frames else None

    def _sounds(self, samples: Sequence[Sample]) -> Tensor | None:
        clips = [s.clip for s in samples if s.clip is not None]
        waveforms = [clip.waveform for clip in clips if clip.waveform is not None]
        return self.processor.input_features(waveforms) if waveforms else None


def _where(flags: Sequence[bool]) -> Tensor:
    return torch.tensor([i for i, flag in enumerate(flags) if flag], dtype=torch.long)


def _stack_features(samples: Sequence[Sample]) -> Features | None:
    """Stacks what came from a cache, or None if nothing did."""
    cached = [s.features for s in samples if s.features is not None]
    if not cached:
        return None
    video = [c.video for c in cached if c.video is not None]
    audio = [c.audio for c in cached if c.audio is not None]
    return Features(
        video=torch.stack(video) if video else None, audio=torch.stack(audio) if audio else None
    )


def pad_rows(rows: Sequence[Sequence[int]], *, pad: int, left: bool) -> tuple[Tensor, Tensor]:
    """Pads token rows to one length.

    Args:
        rows: N token id rows, none longer than L.
        pad: the pad token's id.
        left: pad on the left, else on the right.

    Returns:
        ids and mask, both [N, L] int64.
    """
    width = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = 1
    return ids, mask
