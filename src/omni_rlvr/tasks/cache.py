"""The task ``cache``: store the features of whole splits; clips in the cache are not read again."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from omni_rlvr.assembly.composed import Clips, Composed, Place
from omni_rlvr.assembly.policies import feature_cache, load_policy
from omni_rlvr.assembly.splits import read_clips
from omni_rlvr.config.tasks import CacheTask
from omni_rlvr.data.features.cache import FeatureCache
from omni_rlvr.models.policy import Policy
from omni_rlvr.rollout.encode import encode
from omni_rlvr.tasks.clips import batches
from omni_rlvr.tasks.lifecycle import move_latest, recorded
from omni_rlvr.training.devices import device_of
from omni_rlvr.training.progress import progress_bar
from omni_rlvr.types import UserError


@dataclass(frozen=True)
class CacheInputs:
    """The inputs of ``run``."""

    place: Place
    clips: Clips
    task: CacheTask
    policy: Policy
    cache: FeatureCache


def build(composed: Composed) -> CacheInputs:
    """Read the splits, load the policy and open the cache.

    Raises:
        UserError: The cache is off.
    """
    task: CacheTask = composed.task
    clips = read_clips(composed, task.splits or composed.dataset.splits)
    policy = load_policy(composed, clips.examples)
    cache = feature_cache(composed.feature_cache, clips, policy)
    if cache is None:
        raise UserError("feature_cache.enabled=false: task=cache has nothing to fill")
    return CacheInputs(composed.place, clips, task, policy, cache)


@torch.no_grad()
def run(inputs: CacheInputs) -> None:
    """Encode the clips of each split that the cache does not hold yet."""
    device = device_of(inputs.place.config["trainer"]["accelerator"])
    policy, cache = inputs.policy, inputs.cache
    policy.eval().to(device=device)
    with recorded(inputs.place, device=str(device)) as record:
        for split, examples in inputs.clips.examples.items():
            missing = [example for example in examples if not cache.holds(example)]
            num_skipped = 0
            with progress_bar(f"encoding {split}", len(missing)) as progress:
                for batch in batches(
                    inputs.clips,
                    missing,
                    policy.processor,
                    cache,
                    batch_size=inputs.task.batch_size,
                    device=device,
                ):
                    cache.put(batch, encode(policy, batch))
                    record.add_skipped((clip.example.id, clip.reason) for clip in batch.skipped)
                    record.add_notes(batch.noted())
                    num_skipped += len(batch.skipped)
                    progress.advance(progress.task_ids[0], len(batch) + len(batch.skipped))
            record.add_notes(pair for example in examples for pair in cache.noted(example))
            held = sum(cache.holds(example) for example in examples)
            print(
                f"{split}: {len(examples) - len(missing)} clips were there, "
                f"{held - len(examples) + len(missing)} added, {num_skipped} cannot be read"
            )
        record.finish("finished")
    move_latest(inputs.place)
    print("features:", *cache.folders(), sep="\n  ")
