"""From annotations to batches: the data sets and loaders that tasks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from omni_rlvr.assembly.composed import Clips
from omni_rlvr.data.collate import Collate
from omni_rlvr.data.dataset import ClipDataset
from omni_rlvr.data.features.cache import FeatureCache
from omni_rlvr.data.loader import evaluation_loader, move, refuse_bad_media
from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sandbox.reader import ClipReader
from omni_rlvr.models.policy import Policy, Processor
from omni_rlvr.rollout.encode import encode
from omni_rlvr.training.progress import progress_bar
from omni_rlvr.types import Batch, Example, Features


def clip_dataset(
    clips: Clips,
    examples: Sequence[Example],
    cache: FeatureCache | None,
    *,
    sampling: Sampling,
    sample_rate: int,
    window_s: float | None = None,
) -> ClipDataset:
    """Make the dataset that reads these examples' clips, or their cached features.

    Without ``window_s`` all of a sound is kept, to show it to a person; a processor refuses more
    than its window.
    """
    request = ClipRequest(
        sampling, sample_rate, clips.modality.video, clips.modality.audio, window_s=window_s
    )
    return ClipDataset(
        examples,
        ClipReader(
            clips.dataset.decode_timeout_s,
            clips.dataset.max_clips_per_process,
            limits=clips.dataset.limits,
        ),
        request,
        cache=cache,
    )


def processed_clips(
    clips: Clips, examples: Sequence[Example], processor: Processor, cache: FeatureCache | None
) -> ClipDataset:
    """Make the dataset that reads clips as a policy's processor wants them."""
    return clip_dataset(
        clips,
        examples,
        cache,
        sampling=processor.sampling,
        sample_rate=processor.sample_rate,
        window_s=processor.window_s,
    )


def collate(processor: Processor, cache: FeatureCache | None, *, with_target: bool) -> Collate:
    """Make what turns samples into batches."""
    return Collate(processor, with_target, None if cache is None else cache.dtype)


def batches(
    clips: Clips,
    examples: Sequence[Example],
    processor: Processor,
    cache: FeatureCache | None,
    *,
    batch_size: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Read examples in order, batch by batch, onto a device.

    Raises:
        MediaError: a clip cannot be read and ``dataset.on_bad_media`` is "raise".
    """
    loader = evaluation_loader(
        processed_clips(clips, examples, processor, cache),
        collate(processor, cache, with_target=False),
        batch_size=batch_size,
        num_workers=clips.dataset.num_workers if len(examples) > 1 else 0,
    )
    for batch in loader:
        yield move(refuse_bad_media(batch, clips.dataset.on_bad_media), device)


def keeper(cache: FeatureCache | None) -> Callable[[Batch, Features], None]:
    """Return what stores the features of each batch, if there is a cache."""
    return cache.put if cache is not None else lambda batch, features: None


def encoded_batches(
    clips: Clips,
    examples: Sequence[Example],
    policy: Policy,
    cache: FeatureCache | None,
    *,
    batch_size: int,
    device: torch.device,
    title: str,
) -> Iterator[tuple[Batch, Features]]:
    """Read examples in order and encode them, batch by batch, while a progress bar is shown.

    Features go into the cache. A batch whose clips were all skipped comes with no features.

    Raises:
        MediaError: a clip cannot be read and ``dataset.on_bad_media`` is "raise".
    """
    keep = keeper(cache)
    with progress_bar(title, len(examples)) as progress:
        for batch in batches(
            clips, examples, policy.processor, cache, batch_size=batch_size, device=device
        ):
            features = encode(policy, batch) if len(batch) > 0 else Features([], [])
            if len(batch) > 0:
                keep(batch, features)
            yield batch, features
            progress.advance(progress.task_ids[0], len(batch) + len(batch.skipped))
