"""The yardstick: transformers' plain generate gives the very completions of shared decoding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_shared_prefix_engine import raise_end_token

from omni_rlvr.config.sampling import SamplingConfig
from omni_rlvr.rollout.hf import Generate
from omni_rlvr.rollout.shared_prefix import SharedPrefix

pytestmark = pytest.mark.usefixtures("each_path")

SETTINGS = SamplingConfig(num_generations=3, max_completion_length=14, temperature=1.0)


def both(policy, batch, *, on_tokens=None, **changes):
    with torch.no_grad():
        prompts = policy.prompts(batch, policy.encode(batch))
    sampling = replace(SETTINGS, **changes)
    return [
        engine.sample(policy, prompts, sampling, torch.Generator().manual_seed(3), on_tokens)
        for engine in (SharedPrefix(), Generate())
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0, "num_generations": 1},
        {"temperature": 0.7, "top_p": 0.8},
        {"temperature": 1.5, "top_k": 9},
        {"repetition_penalty": 1.3},
        {"max_completion_length": 1},
    ],
)
@pytest.mark.parametrize("boost", [0.0, 3.0])
def test_same_completions_from_the_same_random_numbers(tiny_policy, make_batch, changes, boost):
    raise_end_token(tiny_policy, boost)
    batch = make_batch(tiny_policy, 4)
    assert (batch.prompt_mask[:, 0] == 0).any()
    ours, plain = both(tiny_policy, batch, **changes)
    assert torch.equal(ours.completion_ids, plain.completion_ids)
    assert torch.equal(ours.completion_mask, plain.completion_mask)
    assert torch.equal(ours.truncated, plain.truncated)
    assert ours.texts == plain.texts
    torch.testing.assert_close(ours.per_token_logps, plain.per_token_logps, atol=1e-5, rtol=0)


def test_tokens_are_told_as_they_come(tiny_policy, make_batch):
    raise_end_token(tiny_policy, 3.0)
    batch, told = make_batch(tiny_policy, 4), []

    def note(rows, tokens):
        told.append(list(zip(rows.tolist(), tokens.tolist(), strict=True)))

    both(tiny_policy, batch, on_tokens=note)
    half = len(told) // 2
    assert told[:half] == told[half:]  # shared_prefix's, then generate's
