"""Which tokens end a completion, and how far its mask then goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from omni_rlvr.config.sampling import SamplingConfig
from omni_rlvr.rollout.engine import to_rollout
from omni_rlvr.rollout.hf import Generate
from omni_rlvr.rollout.shared_prefix import SharedPrefix

OTHER = 9
HOW = SamplingConfig(num_generations=2, max_completion_length=12, temperature=1.0)


def with_stops(policy, *, mask_stops: bool):
    settings = replace(policy.processor.settings, stop_ids=[OTHER], mask_stops=mask_stops)
    policy.processor = replace(policy.processor, settings=settings)
    return policy


def test_masks_by_hand(tiny_policy):
    eos, pad = tiny_policy.processor.tokenizer.eos_token_id, tiny_policy.processor.pad_token_id
    ids = torch.tensor([[5, eos, pad, pad], [5, OTHER, pad, pad], [5, 6, 7, 8]])
    kept = to_rollout(
        with_stops(tiny_policy, mask_stops=True), ids, torch.zeros(3, 4), torch.ones(3).bool()
    )
    assert kept.completion_mask.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    theirs = to_rollout(
        with_stops(tiny_policy, mask_stops=False), ids, torch.zeros(3, 4), torch.ones(3).bool()
    )
    assert theirs.completion_mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    for rollout in (kept, theirs):
        assert rollout.truncated.tolist() == [False, False, True]


@pytest.mark.parametrize("engine", [SharedPrefix(), Generate()])
def test_decoding_ends_at_any_of_them(tiny_policy, make_batch, engine):
    policy, batch = with_stops(tiny_policy, mask_stops=True), make_batch(tiny_policy, 3)

    def lift(module, args, logits):
        logits = logits.clone()
        logits[..., OTHER] += 4.0
        return logits

    policy.language_model.lm_head.register_forward_hook(lift)
    prompts = policy.prompts(batch, policy.encode(batch))
    out = engine.sample(policy, prompts, HOW, torch.Generator().manual_seed(0), None)
    ended = (out.completion_ids == OTHER).any(dim=1)
    assert ended.any()
    for ids, mask in zip(out.completion_ids[ended], out.completion_mask[ended], strict=True):
        assert ids[mask.bool()][-1] == OTHER
        assert (ids[mask.bool()][:-1] != OTHER).all()
    assert not out.truncated[ended].any()
