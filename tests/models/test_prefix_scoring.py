"""Completion logits with a prompt's keys and values shared, against one plain row a completion."""

from __future__ import annotations

import pytest
import torch

from omni_rlvr.models.prefix.scoring import Rows, completion_logits
from omni_rlvr.types import Features

pytestmark = pytest.mark.usefixtures("each_path")

SIZES = (5, 1, 3, 4, 2, 5, 4, 1, 3, 2, 5, 4)
INDEX = (0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 2, 0)
"""Prompt of each completion: groups of unequal size, and two prompts met again later."""


def plain_logits(policy, prompts, index, ids, mask) -> torch.Tensor:
    """[N, T, V]: every completion behind its own copy of its prompt, in one forward pass."""
    tail = policy.language_model.get_input_embeddings()(ids)
    whole_mask = torch.cat([prompts.mask[index], mask], dim=1)
    logits = policy.language_model(
        inputs_embeds=torch.cat([prompts.embeds[index], tail], dim=1),
        attention_mask=whole_mask,
        position_ids=(whole_mask.cumsum(dim=1) - 1).clamp(min=0),
    ).logits
    return logits[:, prompts.mask.shape[1] - 1 : -1]  # position t predicts token t + 1


def shared_logits(policy, *inputs) -> torch.Tensor:
    return completion_logits(policy.language_model, Rows(*inputs))


@pytest.fixture
def case(tiny_policy, make_batch):
    """A mixed, left-padded batch, twelve completions of unequal length, and a weight a token."""

    def make(width: int):
        batch = make_batch(tiny_policy, 4)
        assert (batch.prompt_mask[:, 0] == 0).any()
        generator = torch.Generator().manual_seed(0)
        sizes = torch.tensor(SIZES).clamp(max=width).unsqueeze(1)
        mask = (torch.arange(width) < sizes).long()
        vocabulary = tiny_policy.config.text_config.vocab_size
        ids = torch.randint(5, vocabulary, mask.shape, generator=generator)
        ids = torch.where(mask.bool(), ids, tiny_policy.processor.pad_token_id)
        with torch.no_grad():
            features = tiny_policy.encode(batch)
        weights = torch.randn(mask.shape, generator=generator) * mask
        return batch, features, (torch.tensor(INDEX), ids, mask), weights

    return make


def gradient(policy, forward, batch, features: Features, rows, weights) -> dict[str, torch.Tensor]:
    """Of a weighted sum of the completions' log-probs, down to the projectors: name -> gradient."""
    policy.zero_grad()
    logits = forward(policy, policy.prompts(batch, features), *rows)
    logps = logits.log_softmax(-1).gather(-1, rows[1].unsqueeze(-1)).squeeze(-1)
    (logps * weights).sum().backward()
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("width", [5, 2, 1])
def test_logits_equal_the_plain_forward(tiny_policy, case, width):
    batch, features, rows, _ = case(width)
    with torch.no_grad():
        inputs = (tiny_policy.prompts(batch, features), *rows)
        got, expected = shared_logits(tiny_policy, *inputs), plain_logits(tiny_policy, *inputs)
    assert got.shape == (12, width, tiny_policy.config.text_config.vocab_size)
    there = rows[2].bool()
    torch.testing.assert_close(got[there], expected[there], atol=1e-5, rtol=0)
    assert expected[there].std() > 0.1  # logits that say something


@pytest.mark.parametrize("width", [5, 1])
def test_gradients_equal_the_plain_forward(tiny_policy, case, width):
    inputs = case(width)
    got = gradient(tiny_policy, shared_logits, *inputs)
    expected = gradient(tiny_policy, plain_logits, *inputs)
    assert got.keys() == expected.keys()
    for part in ("video_projector", "audio_projector", "language_model"):
        assert any(name.startswith(part) for name in got)
    for name, value in expected.items():
        assert (got[name] - value).norm() <= 1e-5 * value.norm() + 1e-7, name
    total = [torch.cat([g.flatten() for g in grads.values()]) for grads in (got, expected)]
    assert (total[0] - total[1]).norm() < 1e-5 * total[1].norm()
    assert total[1].norm() > 1


def test_a_prompt_is_processed_once(tiny_policy, case):
    batch, features, rows, _ = case(5)
    shapes = []
    tiny_policy.language_model.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    shared_logits(tiny_policy, tiny_policy.prompts(batch, features), *rows)
    # Each prompt once, each completion without its last token; no padding.
    tokens = batch.prompt_mask.sum() + (rows[2].sum(dim=1) - 1).sum()
    assert shapes == [(1, tokens)]


def test_what_lies_beyond_the_mask_changes_nothing(tiny_policy, case):
    batch, features, (index, ids, mask), weights = case(5)
    junk = torch.where(mask.bool(), ids, 77)
    one, other = (
        gradient(tiny_policy, shared_logits, batch, features, (index, tokens, mask), weights)
        for tokens in (ids, junk)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
