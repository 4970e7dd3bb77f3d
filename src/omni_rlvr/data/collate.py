"""Puts samples into a batch: prompts padded on the left, targets on the right, media stacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omni_rlvr.types import Batch, Processing, Sample, SkippedClip


@dataclass(frozen=True)
class Collate:
    """Turns samples into a ``Batch``; runs in the worker process."""

    processor: Processing
    with_target: bool
    """Whether the annotated target becomes ``completion_ids`` (SFT)."""

    def __call__(self, items: Sequence[Sample | SkippedClip]) -> Batch:
        """Collates what could be read; what could not is handed on in ``Batch.skipped``."""
        samples = [item for item in items if isinstance(item, Sample)]
        skipped = [item for item in items if isinstance(item, SkippedClip)]
        video_rows = [i for i, s in enumerate(samples) if s.clip.frames is not None]
        audio_rows = [i for i, s in enumerate(samples) if s.clip.waveform is not None]
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
            pixel_values=self._pixels([samples[i] for i in video_rows]),
            video_rows=torch.tensor(video_rows, dtype=torch.long),
            input_features=self._sounds([samples[i] for i in audio_rows]),
            audio_rows=torch.tensor(audio_rows, dtype=torch.long),
            completion_ids=completion_ids,
            completion_mask=completion_mask,
            skipped=skipped,
        )

    def _prompt(self, sample: Sample) -> list[int]:
        return self.processor.prompt_ids(
            sample.example.question,
            has_video=sample.clip.frames is not None,
            has_audio=sample.clip.waveform is not None,
        )

    def _pixels(self, samples: Sequence[Sample]) -> Tensor | None:
        frames = [s.clip.frames for s in samples if s.clip.frames is not None]
        return torch.stack([self.processor.pixel_values(f) for f in frames]) if frames else None

    def _sounds(self, samples: Sequence[Sample]) -> Tensor | None:
        waveforms = [s.clip.waveform for s in samples if s.clip.waveform is not None]
        return self.processor.input_features(waveforms) if waveforms else None


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
