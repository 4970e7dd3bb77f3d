"""Collate samples into a batch: prompts padded left, targets padded right, one tensor a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from omni_rlvr.types import (
    AudioShape,
    Batch,
    Features,
    Processing,
    Sample,
    SkippedClip,
    VideoShape,
)


@dataclass(frozen=True)
class Collate:
    """Turns samples into a ``Batch``; runs in the worker process."""

    processor: Processing
    with_target: bool
    """Whether the annotated target becomes ``completion_ids`` (SFT)."""
    feature_dtype: torch.dtype | None = None
    """The dtype of the feature cache, or None without one."""

    def __call__(self, items: Sequence[Sample | SkippedClip]) -> Batch:
        """Collate the clips that could be read; list the others in ``Batch.skipped``."""
        places = [i for i, item in enumerate(items) if isinstance(item, Sample)]
        samples = [item for item in items if isinstance(item, Sample)]
        skipped = [item for item in items if isinstance(item, SkippedClip)]
        pictures = [self._picture(sample) for sample in samples]
        sounds = [self._sound(sample) for sample in samples]
        video_shapes = [shape for _, shape in pictures]
        audio_shapes = [shape for _, shape in sounds]
        prompt_ids, prompt_mask, prompt_positions = write_prompts(
            self.processor, [s.example.question for s in samples], video_shapes, audio_shapes
        )
        completion_ids = completion_mask = None
        if self.with_target:
            targets = [self.processor.target_ids(s.example.target) for s in samples]
            completion_ids, completion_mask = pad_rows(
                targets, pad=self.processor.pad_token_id, left=False
            )
        return Batch(
            examples=[s.example for s in samples],
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            prompt_positions=prompt_positions,
            video_shapes=video_shapes,
            audio_shapes=audio_shapes,
            pixel_values=in_one_storage([pixels for pixels, _ in pictures]),
            input_features=in_one_storage([sound for sound, _ in sounds]),
            features=_cached(samples),
            feature_dtype=self.feature_dtype,
            completion_ids=completion_ids,
            completion_mask=completion_mask,
            places=places,
            skipped=skipped,
            notes=[s.notes for s in samples],
        )

    def _picture(self, sample: Sample) -> tuple[Tensor | None, VideoShape | None]:
        if sample.features is not None:
            return None, sample.features.video_shape
        clip = sample.clip
        if clip is None or clip.frames is None:
            return None, None
        assert clip.frame_times_s is not None  # frames are always read with their times
        return self.processor.video(clip.frames, clip.frame_times_s)

    def _sound(self, sample: Sample) -> tuple[Tensor | None, AudioShape | None]:
        if sample.features is not None:
            return None, sample.features.audio_shape
        if sample.clip is None or sample.clip.waveform is None:
            return None, None
        return self.processor.audio(sample.clip.waveform)


def in_one_storage(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Copy tensors into one storage, of which they become views; None stays None.

    Each storage that a worker sends takes a file descriptor in the training process, which may
    have only 1024 of them.
    """
    there = [tensor for tensor in tensors if tensor is not None]
    if not there:
        return list(tensors)
    parts = torch.cat([tensor.flatten() for tensor in there]).split([t.numel() for t in there])
    views = iter([part.view(tensor.shape) for part, tensor in zip(parts, there, strict=True)])
    return [None if tensor is None else next(views) for tensor in tensors]


def _cached(samples: Sequence[Sample]) -> Features | None:
    """Collect the features that came from the cache; None if none did."""
    if all(s.features is None for s in samples):
        return None
    video = [None if s.features is None else s.features.video for s in samples]
    audio = [None if s.features is None else s.features.audio for s in samples]
    return Features(in_one_storage(video), in_one_storage(audio))


def write_prompts(
    processor: Processing,
    questions: Sequence[str],
    video_shapes: Sequence[VideoShape | None],
    audio_shapes: Sequence[AudioShape | None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokenise prompts and pad them on the left.

    A prompt depends on the shapes of its media: call this again after dropping or swapping one.

    Args:
        processor: Writes each prompt.
        questions: B questions.
        video_shapes: The shape of each question's picture, or None if it has none.
        audio_shapes: The shape of each question's sound, or None if it has none.

    Returns:
        ids and mask, both [B, P] int64, and positions, [B, P] or [3, B, P], 0 on padding.
    """
    prompt = cache(processor.prompt)  # many rows may have the same question and shapes
    asked = zip(questions, video_shapes, audio_shapes, strict=True)
    prompts = [prompt(question, video, audio) for question, video, audio in asked]
    ids, mask = pad_rows([row for row, _ in prompts], pad=processor.pad_token_id, left=True)
    if not prompts:
        return ids, mask, mask
    like = prompts[0][1]
    positions = like.new_zeros(*like.shape[:-1], *mask.shape)
    for i, (row, places) in enumerate(prompts):
        positions[..., i, mask.shape[1] - len(row) :] = places
    return ids, mask, positions


def pad_rows(rows: Sequence[Sequence[int]], *, pad: int, left: bool) -> tuple[Tensor, Tensor]:
    """Pad token rows to one length.

    Args:
        rows: N lists of token ids; the longest has L.
        pad: The pad token's id.
        left: Pad on the left, else on the right.

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
