"""The task ``cache``: store the features of whole splits; clips in the cache are not read again."""

from __future__ import annotations

from omni_rlvr import distributed
from omni_rlvr.assembly.composed import Composed
from omni_rlvr.assembly.splits import read_clips
from omni_rlvr.tasks.clips import PolicyInputs, for_each_batch, policy_inputs
from omni_rlvr.tasks.launch import Launch, launch_of
from omni_rlvr.tasks.lifecycle import move_latest, recorded
from omni_rlvr.types import Batch, Features, UserError


def build(composed: Composed) -> PolicyInputs | Launch:
    """Read the splits, load the policy and open the cache.

    Raises:
        UserError: The cache is off.
    """
    clips = read_clips(composed, composed.task.splits or composed.dataset.splits)
    if composed.launches:
        return launch_of(composed)
    inputs = policy_inputs(composed, clips)
    if inputs.cache is None:
        raise UserError("feature_cache.enabled=false: task=cache has nothing to fill")
    return inputs


def run(inputs: PolicyInputs) -> None:
    """Encode the clips of each split that the cache does not hold yet."""
    cache = inputs.cache
    assert cache is not None  # checked by ``build``

    def counted(batch: Batch, features: Features) -> tuple[int, int]:
        return sum(cache.holds(example) for example in batch.examples), len(batch.skipped)

    with recorded(inputs.place, device=str(inputs.device)) as record:
        for split, examples in inputs.clips.examples.items():
            counts: list[tuple[int, int]] = []
            # the first rank decides: other processes may fill the cache meanwhile
            first = distributed.is_first()
            lacks = [i for i, e in enumerate(examples) if not cache.holds(e)] if first else []
            missing = [examples[i] for i in distributed.gather(lacks)[0]]
            for_each_batch(
                inputs,
                record,
                missing,
                counted,
                counts.append,
                batch_size=inputs.task.batch_size,
                title=f"encoding {split}",
            )
            if first:
                record.add_notes(pair for example in examples for pair in cache.noted(example))
            print(
                f"{split}: {len(examples) - len(missing)} clips were cached, "
                f"{sum(held for held, _ in counts)} added, "
                f"{sum(skipped for _, skipped in counts)} cannot be read"
            )
    move_latest(inputs.place)
    print("features:", *cache.folders(), sep="\n  ")
