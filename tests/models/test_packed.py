"""Packed completions against one forward pass each, and when they are packed at all."""

from __future__ import annotations

import pytest
import torch

from omni_rlvr.models import prefix
from omni_rlvr.models.packed import can_pack, packed_logits
from omni_rlvr.models.prefix import completion_logits


def completions(num_rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tokens of unequal length, right-padded; the first of each prompt is the longest."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 300, (num_rows, width), generator=generator)
    lengths = torch.arange(num_rows) % width + 1
    mask = (torch.arange(width) < lengths.unsqueeze(1)).long()
    return ids * mask, mask


@pytest.fixture
def prompts(tiny_policy, make_batch):
    """Prompts of unequal length."""
    batch = make_batch(tiny_policy, 4)
    with torch.no_grad():
        return tiny_policy.embed(batch, tiny_policy.encode(batch)), batch.prompt_mask


@pytest.mark.parametrize(("num_each", "width"), [(3, 4), (7, 2), (2, 6)])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_equals_each_completion_alone(tiny_policy, prompts, num_each, width, attention):
    model, (embeds, prompt_mask) = tiny_policy.language_model, prompts
    model.set_attn_implementation(attention)
    ids, mask = completions(4 * num_each, width)
    logits = packed_logits(model, embeds, prompt_mask, ids, mask)
    for row in range(len(ids)):
        prompt = row // num_each
        alone = embeds[prompt, prompt_mask[prompt].bool()]
        length = int(mask[row].sum())
        tail = model.get_input_embeddings()(ids[row, :length])
        whole = model(inputs_embeds=torch.cat([alone, tail]).unsqueeze(0)).logits[0]
        expected = whole[len(alone) - 1 : -1]
        torch.testing.assert_close(logits[row, :length], expected, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_what_is_chosen_changes_no_logit(tiny_policy, prompts, monkeypatch):
    model, (embeds, prompt_mask) = tiny_policy.language_model, prompts
    ids, mask = completions(12, 3)
    index = torch.arange(4).repeat_interleave(3)
    assert can_pack(model, prompt_mask, index, 3)
    packed = completion_logits(model, embeds, prompt_mask, index, ids, mask)
    monkeypatch.setattr(prefix, "can_pack", lambda *a: False)
    copied = completion_logits(model, embeds, prompt_mask, index, ids, mask)
    there = mask.bool()
    torch.testing.assert_close(packed[there], copied[there], atol=2e-4, rtol=1e-4)


def test_only_short_ordered_completions_without_gradients_are_packed(tiny_policy, prompts):
    model, (_, prompt_mask) = tiny_policy.language_model, prompts
    index, width = torch.arange(4).repeat_interleave(3), prompt_mask.shape[1]
    assert not can_pack(model, prompt_mask, index, 3)  # a gradient may be wanted
    with torch.no_grad():
        assert can_pack(model, prompt_mask, index, width // 3 + 1)
        assert not can_pack(model, prompt_mask, index, width // 3 + 2)  # longer than the prompt
        assert not can_pack(model, prompt_mask, index, 1)
        assert not can_pack(model, prompt_mask, index.flip(0), 3)
        assert not can_pack(model, prompt_mask, index[:-1], 3)
        assert not can_pack(model, prompt_mask, torch.arange(4), 3)
