"""Code that tasks running a policy on clips share: their inputs, and the loop over the clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from omni_rlvr import distributed
from omni_rlvr.assembly.composed import Clips, Composed, Place
from omni_rlvr.assembly.instantiate import make
from omni_rlvr.assembly.policies import feature_cache, load_policy
from omni_rlvr.data.collate import Collate
from omni_rlvr.data.dataset import ClipDataset, clip_reader
from omni_rlvr.data.features.cache import FeatureCache
from omni_rlvr.data.loader import evaluation_loader, move, refuse_bad_media
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.models.policy import Policy, Processor
from omni_rlvr.models.sharding import gathered
from omni_rlvr.record import RunRecord
from omni_rlvr.rollout.encode import encode
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.text.progress import progress_bar
from omni_rlvr.training.devices import take_device
from omni_rlvr.types import Batch, ClipNote, Example, Features

T = TypeVar("T")


@dataclass(frozen=True)
class PolicyInputs:
    """The inputs of a task that runs a policy on clips."""

    place: Place
    clips: Clips
    task: Any
    """The dataclass of the task's options."""
    policy: Policy
    cache: FeatureCache | None
    engine: RolloutEngine

    @property
    def device(self) -> torch.device:
        """The device of this rank."""
        return take_device(self.place.config["trainer"], distributed.local_rank())


def policy_inputs(composed: Composed, clips: Clips) -> PolicyInputs:
    """Load the policy, open the cache of its features, and build the engine that samples."""
    policy = composed.policy or load_policy(composed, clips.examples)
    cache = feature_cache(composed.feature_cache, clips, policy)
    engine = make(composed.cfg.rollout)
    return PolicyInputs(composed.place, clips, composed.task, policy, cache, engine)


def clip_request(processor: Processor, *, video: bool, audio: bool) -> ClipRequest:
    """Make the request for what a policy's processor takes of a clip."""
    sampling, rate, window_s = processor.sampling, processor.sample_rate, processor.window_s
    frame_size = processor.frame_size
    return ClipRequest(sampling, rate, video, audio, window_s=window_s, frame_size=frame_size)


def processed_clips(
    clips: Clips, examples: Sequence[Example], processor: Processor, cache: FeatureCache | None
) -> ClipDataset:
    """Make the dataset that reads clips, or their cached features, as a processor takes them."""
    used = clips.modality
    request = clip_request(processor, video=used.video, audio=used.audio)
    return ClipDataset(examples, clip_reader(clips.dataset), request, cache)


def collate(processor: Processor, cache: FeatureCache | None, *, with_target: bool) -> Collate:
    """Make the function that turns samples into batches."""
    return Collate(processor, with_target, None if cache is None else cache.dtype)


def keeper(cache: FeatureCache | None) -> Callable[[Batch, Features], None]:
    """Return a function that stores the features of each batch if there is a cache."""
    return cache.put if cache is not None else lambda batch, features: None


@torch.no_grad()
def for_each_batch(
    inputs: PolicyInputs,
    record: RunRecord,
    examples: Sequence[Example],
    do: Callable[[Batch, Features], T],
    then: Callable[[T], object],
    *,
    batch_size: int,
    title: str | None,
) -> None:
    """Call a function for examples batch by batch, with one batch on each rank at a time.

    One rank reads each batch, encodes it, puts it into the cache and calls ``do``. All ranks
    synchronise after each round, and then have all its results, in the order of the examples.
    Batches are the same on any number of ranks.

    Args:
        inputs: How clips are read, the policy that encodes them, and the cache of features.
        record: Records the clips that could not be read, and the notes on the others.
        examples: The clips to read, the same on every rank.
        do: Is called with each batch on the rank that reads it; ``places`` are indices into
            ``examples``, and a batch whose clips were all skipped has no features. Its result is
            sent to all ranks, so it should be small, and on the CPU.
        then: Is called on every rank with each result, in the order of the examples.
        batch_size: The number of clips encoded together.
        title: The title of the progress bar; None shows no bar.

    Raises:
        MediaError: A clip cannot be read, and ``dataset.on_bad_media`` is "raise".
    """
    clips, policy, cache = inputs.clips, inputs.policy, inputs.cache
    keep, device = keeper(cache), inputs.device
    policy.eval().to(device=device)
    rank, num_ranks = distributed.rank(), distributed.num_ranks()
    loader = evaluation_loader(
        processed_clips(clips, examples, policy.processor, cache),
        collate(policy.processor, cache, with_target=False),
        batch_size=batch_size,
        num_workers=clips.dataset.num_workers if len(examples) > 1 else 0,
        rank=rank,
        num_ranks=num_ranks,
    )

    def done(first: int) -> tuple[T, list[tuple[str, str]], list[tuple[str, ClipNote]]]:
        batch = move(refuse_bad_media(next(batches), clips.dataset.on_bad_media), device)
        places = [first + place for place in batch.places or range(len(batch))]
        batch, features = replace(batch, places=places), Features([], [])
        if len(batch) > 0:
            features = encode(policy, batch)
            keep(batch, features)
        skipped = [(clip.example.id, clip.reason) for clip in batch.skipped]
        return do(batch, features), skipped, batch.noted()

    bar = nullcontext(None) if title is None else progress_bar(title, len(examples))
    with gathered(policy), bar as advance:
        batches, round_size = iter(loader), batch_size * num_ranks
        for start in range(0, len(examples), round_size):
            first = start + rank * batch_size
            for found in distributed.gather(done(first) if first < len(examples) else None):
                if found is not None:
                    result, skipped, notes = found
                    record.add_skipped(skipped)
                    record.add_notes(notes)
                    then(result)
            if advance is not None:
                advance(min(round_size, len(examples) - start))
