"""GRPO's updates: minibatches and iterations, old log-probs and clipping, and that it learns."""

from __future__ import annotations

import pytest
import torch
from make_grpo import EQUAL, Reward, backward, logps_of, make_stage, nudge, prepare


@pytest.mark.parametrize(("iterations", "minibatches"), [(1, 1), (2, 1), (1, 2), (3, 4), (2, 3)])
def test_minibatches_cover_every_row_in_every_iteration(
    tiny_policy, make_batch, iterations, minibatches
):
    stage = make_stage(num_iterations=iterations, num_minibatches=minibatches, num_generations=2)
    experience = prepare(stage, tiny_policy, make_batch(tiny_policy, 4))
    parts = list(stage.minibatches(experience))
    assert len(parts) == iterations * minibatches
    for k in range(iterations):
        one_pass = parts[k * minibatches : (k + 1) * minibatches]
        seen = torch.cat([part.advantages for part in one_pass])
        assert torch.equal(seen, experience.advantages)
        names = [[e.id for e in part.batch.examples] for part in one_pass]
        assert [name for part in names for name in part] == [f"clip{b}" for b in range(4)]
        for part in one_pass:  # groups stay whole
            assert len(part) == 2 * len(part.batch)
    assert (experience.old_per_token_logps is None) == (iterations * minibatches == 1)


def test_fewer_prompts_than_minibatches_gives_no_empty_one(tiny_policy, make_batch):
    stage = make_stage(num_minibatches=4)
    experience = prepare(stage, tiny_policy, make_batch(tiny_policy, 2))
    assert [len(part) for part in stage.minibatches(experience)] == [4, 4]


def test_old_logps_are_those_of_the_rollout_and_enter_the_ratio(tiny_policy, make_batch):
    stage = make_stage(num_iterations=2, sampling={"temperature": 0.7}, epsilon_high=0.3)
    experience = prepare(stage, tiny_policy, make_batch(tiny_policy, 4))

    with torch.no_grad():
        mask = experience.completion_mask
        old = experience.old_per_token_logps
        torch.testing.assert_close(
            old * mask, logps_of(tiny_policy, experience, 0.7) * mask, atol=2e-5, rtol=0
        )
        nudge(tiny_policy, 0.3)
        ratio, a = (
            (logps_of(tiny_policy, experience, 0.7) - old).exp(),
            experience.advantages.unsqueeze(1),
        )
        objective = torch.minimum(ratio * a, ratio.clamp(0.8, 1.3) * a)
        expected = -((objective * mask).sum(dim=1) / mask.sum(dim=1)).mean()
        clipped = ((ratio < 0.8) & (a < 0)) | ((ratio > 1.3) & (a > 0))
    _, metrics = backward(stage, tiny_policy, experience, 3)
    assert metrics["policy_loss"] == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    share = (clipped * mask).sum() / mask.sum()
    assert 0 < share < 1
    assert metrics["clip_ratio/region_mean"] == pytest.approx(share.item(), abs=0.02)


def test_epsilon_high_unset_is_epsilon(tiny_policy, make_batch):
    experience = prepare(make_stage(num_iterations=2), tiny_policy, make_batch(tiny_policy, 2))
    nudge(tiny_policy, 0.3)
    losses = {
        high: backward(make_stage(num_iterations=2, epsilon_high=high), tiny_policy, experience)[1]
        for high in (None, 0.2, 5.0)
    }
    assert losses[None] == losses[0.2]
    assert losses[None] != losses[5.0]


def train(policy, batch, stage, *, steps: int, lr: float) -> list[float]:
    weights = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.0)
    rewards = []
    for step in range(steps):
        prepared = stage.prepare(policy, batch, torch.Generator().manual_seed(step))
        rewards.append(prepared.metrics["reward"])
        for minibatch in stage.minibatches(prepared.experience):
            backward(stage, policy, minibatch, 64)
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
    return rewards


def words_of_mass(policy, batch, mass: float) -> tuple[str, ...]:
    """Words that the policy begins with, each rarely, together with about this probability."""
    tokenizer = policy.processor.tokenizer
    with torch.no_grad():
        embeds = policy.prompts(batch, policy.encode(batch)).embeds
        out = policy.language_model(inputs_embeds=embeds, attention_mask=batch.prompt_mask)
    start = out.logits[:, -1].softmax(-1).mean(dim=0)
    start[:5] = 0.0  # special tokens
    texts: list[str] = []
    for token in start.argsort(descending=True).tolist():
        text = tokenizer.decode([token])
        if len(text.strip()) > 1 and mass > 0:
            texts.append(text)
            mass -= start[token].item()
    return tuple(texts)


@pytest.mark.slow
@pytest.mark.parametrize(("num_iterations", "kinds"), [(1, ("av", "t")), (2, ("t", "a"))])
def test_learns_to_start_with_given_words(tiny_policy, make_batch, num_iterations, kinds):
    batch = make_batch(tiny_policy, 2, kinds=kinds)
    words = words_of_mass(tiny_policy, batch, 0.08)
    stage = make_stage(
        Reward(lambda i, completion: completion.startswith(words)),
        reference=tiny_policy.frozen_copy(),
        beta=0.001,
        length=2,
        num_generations=12,
        micro_batch_size=64,
        num_iterations=num_iterations,
    )
    rewards = train(tiny_policy, batch, stage, steps=16, lr=2e-3)
    assert sum(rewards[:2]) / 2 < 0.2
    assert sum(rewards[-4:]) / 4 > 0.8


def test_without_a_reward_signal_nothing_is_learned(tiny_policy, make_batch):
    before = [p.clone() for p in tiny_policy.parameters()]
    rewards = train(tiny_policy, make_batch(tiny_policy, 2), make_stage(EQUAL), steps=3, lr=1e-2)
    assert rewards == pytest.approx([0.1] * 3)
    assert all(torch.equal(a, b) for a, b in zip(before, tiny_policy.parameters(), strict=True))
