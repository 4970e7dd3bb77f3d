"""Fills the feature cache with whole splits; clips it holds are not read again."""

from __future__ import annotations

import torch

from omni_rlvr.assembly.parts import CacheParts
from omni_rlvr.rollout.encode import encode
from omni_rlvr.tasks.clips import batches
from omni_rlvr.tasks.lifecycle import move_latest, recorded
from omni_rlvr.training.devices import device_of
from omni_rlvr.training.progress import progress_bar


@torch.no_grad()
def fill_cache(parts: CacheParts) -> None:
    """Encodes the clips of each split that the cache does not hold yet."""
    device = device_of(parts.place.config["trainer"]["accelerator"])
    policy, cache = parts.policy, parts.cache
    policy.eval().to(device=device)
    with recorded(parts.place, device=str(device)) as record:
        for split, examples in parts.clips.examples.items():
            missing = [example for example in examples if not cache.holds(example)]
            num_skipped = 0
            with progress_bar(f"encoding {split}", len(missing)) as progress:
                for batch in batches(
                    parts.clips,
                    missing,
                    policy.processor,
                    cache,
                    batch_size=parts.task.batch_size,
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
    move_latest(parts.place)
    print("features:", *cache.folders(), sep="\n  ")
