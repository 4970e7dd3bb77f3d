"""The clips of a task: how they are read, and in which batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from omni_rlvr.build import Clips, EvaluateParts, PredictParts
from omni_rlvr.data.collate import Collate
from omni_rlvr.data.datamodule import evaluation_loader, move, refuse_bad_media
from omni_rlvr.data.dataset import ClipDataset
from omni_rlvr.media.isolated import ClipReader
from omni_rlvr.models.processing import Processor
from omni_rlvr.types import Batch, Example


def clip_dataset(
    clips: Clips, examples: list[Example], *, num_frames: int, sample_rate: int
) -> ClipDataset:
    """Makes the dataset that reads these examples' clips."""
    return ClipDataset(
        examples,
        ClipReader(clips.dataset.decode_timeout_s, clips.dataset.max_clips_per_process),
        num_frames=num_frames,
        sample_rate=sample_rate,
        video=clips.modality.video,
        audio=clips.modality.audio,
    )


def processed_clips(clips: Clips, examples: list[Example], processor: Processor) -> ClipDataset:
    """Makes the dataset that reads clips as a policy's processor wants them."""
    return clip_dataset(
        clips,
        examples,
        num_frames=processor.settings.num_frames,
        sample_rate=processor.sample_rate,
    )


def clip_batches(
    parts: EvaluateParts | PredictParts, examples: list[Example], device: torch.device
) -> Iterator[Batch]:
    """Reads clips batch by batch onto the device, in order."""
    dataset, processor = parts.clips.dataset, parts.policy.processor
    loader = evaluation_loader(
        processed_clips(parts.clips, examples, processor),
        Collate(processor, with_target=False),
        batch_size=parts.task.batch_size,
        num_workers=dataset.num_workers if len(examples) > 1 else 0,
    )
    return (move(refuse_bad_media(batch, dataset.on_bad_media), device) for batch in loader)
