"""GRPO: experience, the plain policy gradient at one update, the pull of the reference."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from make_grpo import EQUAL, Reward, backward, flat_gradient, logps_of, make_stage, nudge, prepare

from omni_rlvr.rollout.experience import select

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("each_path")]


def test_experience_has_a_group_per_prompt(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4)
    prepared = make_stage().prepare(tiny_policy, batch, torch.Generator().manual_seed(0))
    experience = prepared.experience
    assert experience.prompt_index.tolist() == [b for b in range(4) for _ in range(4)]
    assert len(experience) == 16
    assert experience.old_per_token_logps is None  # the policy has not moved by the only update
    assert experience.ref_per_token_logps is None  # beta is 0
    # Rewards of rows 0..3: 0, 2, 4, 1: mean 1.75, std 1.708.
    std = math.sqrt((1.75**2 + 0.25**2 + 2.25**2 + 0.75**2) / 3) + 1e-4
    expected = [-1.75 / std, 0.25 / std, 2.25 / std, -0.75 / std]
    assert experience.advantages[:4].tolist() == pytest.approx(expected, abs=1e-5)
    assert [row["id"] for row in prepared.completions] == [
        f"clip{b}" for b in range(4) for _ in range(4)
    ]
    assert [row["reward"] for row in prepared.completions[:4]] == [0, 2, 4, 1]
    rewards = torch.tensor([(i * 7) % 5 for i in range(16)]).float()
    assert prepared.metrics["reward"] == pytest.approx(rewards.mean().item())
    assert prepared.metrics["reward_std"] == pytest.approx(rewards.std().item())
    assert prepared.metrics["frac_reward_zero_std"] == 0


def test_one_update_is_the_plain_policy_gradient(tiny_policy, make_batch):
    stage, batch = make_stage(), make_batch(tiny_policy, 4)
    experience = prepare(stage, tiny_policy, batch)
    gradient, metrics = backward(stage, tiny_policy, experience)
    # Naively: every row alone and without padding, - 1/N sum_i A_i 1/|o_i| sum_t log pi.
    tiny_policy.zero_grad()
    embeds = tiny_policy.prompts(batch, experience.features).embeds
    loss = torch.zeros(())
    for i in range(16):
        b, size = int(experience.prompt_index[i]), int(experience.completion_mask[i].sum())
        prompt, ids = embeds[b, batch.prompt_mask[b].bool()], experience.completion_ids[i, :size]
        tail = tiny_policy.language_model.get_input_embeddings()(ids[:-1])
        logits = tiny_policy.language_model(
            inputs_embeds=torch.cat([prompt, tail]).unsqueeze(0)
        ).logits
        logps = logits[0, -size:].log_softmax(-1)[torch.arange(size), ids]
        loss = loss - experience.advantages[i] * logps.mean() / 16
    loss.backward()
    naive = flat_gradient(tiny_policy)
    assert naive.norm() > 1e-3
    assert (gradient - naive).norm() < 1e-5 * naive.norm()
    # rho is 1, so the loss itself is minus the mean advantage: 0.
    assert metrics["policy_loss"] == pytest.approx(0, abs=1e-6)
    assert metrics["clip_ratio/region_mean"] == 0


@pytest.mark.parametrize("with_reference", [False, True])
def test_micro_batches_leave_gradient_and_metrics(tiny_policy, make_batch, with_reference):
    reference = tiny_policy.frozen_copy() if with_reference else None
    nudge(tiny_policy)
    stage = make_stage(reference=reference, num_generations=2)
    experience = prepare(stage, tiny_policy, make_batch(tiny_policy, 4))
    assert len(experience) == 8
    at_once, metrics = backward(stage, tiny_policy, experience, 8)
    for size in (1, 3):
        parts, summed = backward(stage, tiny_policy, experience, size)
        assert (parts - at_once).norm() < 1e-5 * at_once.norm()
        assert summed == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    assert ("kl" in metrics) == with_reference


def test_equal_rewards_leave_the_policy_where_it_is(tiny_policy, make_batch):
    stage = make_stage(EQUAL, num_generations=7)
    prepared = stage.prepare(tiny_policy, make_batch(tiny_policy, 2), torch.Generator())
    assert prepared.metrics["frac_reward_zero_std"] == 1
    assert prepared.metrics["reward_std_within_group"] == pytest.approx(0, abs=1e-6)
    assert stage.micro_batches(prepared.experience) == []
    # Where a KL makes them worth computing, they have no gradient beside the KL's.
    experience = prepared.experience
    stage.loss(
        tiny_policy, experience, replace(experience, advantages=torch.ones(14))
    ).loss.backward()
    gradient = flat_gradient(tiny_policy)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_row_that_could_not_be_judged_teaches_nothing(tiny_policy, make_batch):
    stage = make_stage(Reward(lambda i, text: math.nan if i == 2 else i))
    experience = prepare(stage, tiny_policy, make_batch(tiny_policy, 2))
    assert experience.advantages[2] == 0
    policy_rows = select(experience, torch.tensor([2]))
    stage.loss(tiny_policy, policy_rows, experience).loss.backward()
    grads = [p.grad for p in tiny_policy.parameters() if p.grad is not None]
    assert all(torch.equal(g, torch.zeros_like(g)) for g in grads)


def test_a_reference_like_the_policy_adds_nothing(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4)
    plain = make_stage()
    expected, _ = backward(plain, tiny_policy, prepare(plain, tiny_policy, batch))
    stage = make_stage(reference=tiny_policy.frozen_copy(), beta=1.0)
    experience = prepare(stage, tiny_policy, batch)
    gradient, metrics = backward(stage, tiny_policy, experience)
    assert metrics["kl"] == pytest.approx(0, abs=1e-9)
    assert (gradient - expected).norm() < 1e-5 * expected.norm()
    # And with no reward signal there is nothing left to follow.
    silent = make_stage(EQUAL, reference=tiny_policy.frozen_copy(), beta=1.0)
    gradient, _ = backward(silent, tiny_policy, prepare(silent, tiny_policy, batch))
    assert gradient.norm() < 1e-5 * expected.norm()


def test_the_reference_pulls_the_policy_back(tiny_policy, make_batch):
    reference = tiny_policy.frozen_copy()
    nudge(tiny_policy, 0.2)
    stage = make_stage(EQUAL, reference=reference, beta=0.5)
    experience = prepare(stage, tiny_policy, make_batch(tiny_policy, 2))
    logps, ref = (logps_of(p, experience) for p in (tiny_policy, reference))
    torch.testing.assert_close(experience.ref_per_token_logps, ref, atol=2e-5, rtol=0)
    _, metrics = backward(stage, tiny_policy, experience)
    mask = experience.completion_mask
    k3 = ((ref - logps).exp() - (ref - logps) - 1) * mask
    assert metrics["kl"] == pytest.approx((k3.sum() / mask.sum()).item(), rel=1e-3)
    assert metrics["kl"] > 1e-3
    per_sequence = (k3.sum(dim=1) / mask.sum(dim=1)).mean()
    assert metrics["loss"] == pytest.approx(0.5 * per_sequence.item(), rel=1e-3)


def test_scaling_and_temperature_reach_the_update(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 2)
    plain = prepare(make_stage(scale_rewards="none"), tiny_policy, batch)
    assert plain.advantages[:4].tolist() == [-1.75, 0.25, 2.25, -0.75]
    warm = make_stage(sampling={"temperature": 2.0})
    _, metrics = backward(warm, tiny_policy, plain)
    assert metrics["entropy"] > backward(make_stage(), tiny_policy, plain)[1]["entropy"]


def test_towers_run_once_per_prompt_in_a_whole_step(tiny_policy, make_batch):
    reference = tiny_policy.frozen_copy()
    seen = []
    tiny_policy.vision_tower.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(("video", len(kwargs["pixel_values"]))),
        with_kwargs=True,
    )
    tiny_policy.audio_tower.register_forward_hook(
        lambda module, args, out: seen.append(("audio", len(args[0])))
    )
    stage = make_stage(reference=reference, num_iterations=2, num_minibatches=2)
    batch = make_batch(tiny_policy, 4)
    for minibatch in stage.minibatches(prepare(stage, tiny_policy, batch)):
        backward(stage, tiny_policy, minibatch, 3)
    # Two prompts have a picture (2 frames each), two have sound; nothing adds to that.
    assert seen == [("video", 4), ("audio", 2)]


def test_prepare_keeps_no_graph_and_changes_no_weight(tiny_policy, make_batch):
    before = {name: value.clone() for name, value in tiny_policy.state_dict().items()}
    stage = make_stage(reference=tiny_policy.frozen_copy(), num_iterations=2)
    experience = prepare(stage, tiny_policy, make_batch(tiny_policy, 2))
    for value in (
        experience.old_per_token_logps,
        experience.ref_per_token_logps,
        experience.features.video[0],
    ):
        assert not value.requires_grad
        assert not value.is_inference()
    assert all(torch.equal(v, before[k]) for k, v in tiny_policy.state_dict().items())


def test_the_seed_decides_the_rollout(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 2)
    a, b, c = (prepare(make_stage(), tiny_policy, batch, seed=s).completion_ids for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_groups_share_does_not_depend_on_the_other_groups(tiny_policy, make_batch):
    stage = make_stage()
    experience = prepare(stage, tiny_policy, make_batch(tiny_policy, 4))
    part = select(experience, torch.arange(4, 8))
    alone, _ = backward(stage, tiny_policy, part)
    tiny_policy.zero_grad()
    stage.loss(tiny_policy, part, experience).loss.backward()
    # 4 of 16 rows: a quarter of what they teach alone.
    assert (flat_gradient(tiny_policy) - alone / 4).norm() < 1e-5 * alone.norm()


def test_rows_that_teach_nothing_are_not_computed(tiny_policy, make_batch):
    """Rewards of group 1 are all equal: its rows are left out, and the gradient is the same."""
    reward = Reward(lambda i, text: 1.0 if 4 <= i < 8 else (i * 7) % 5)
    stage, batch = make_stage(reward), make_batch(tiny_policy, 3)
    experience = prepare(stage, tiny_policy, batch)
    assert torch.cat(stage.micro_batches(experience)).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    got, metrics = backward(stage, tiny_policy, experience)
    tiny_policy.zero_grad()
    stage.loss(tiny_policy, experience, experience).loss.backward()
    expected = flat_gradient(tiny_policy)
    assert (got - expected).norm() < 1e-5 * expected.norm()
    # Token means are over the rows that were computed.
    taught = select(experience, torch.cat(stage.micro_batches(experience)))
    alone = stage.loss(tiny_policy, taught, taught).metrics
    assert metrics["entropy"] == pytest.approx(alone["entropy"].item(), rel=1e-5)
    # With a KL every row teaches.
    both = make_stage(reward, reference=tiny_policy.frozen_copy())
    assert sum(map(len, both.micro_batches(prepare(both, tiny_policy, batch)))) == 12


@pytest.mark.parametrize(
    "changes", [{"gradient_checkpointing": True}, {"max_tokens_per_micro_batch": 60}]
)
def test_what_saves_memory_leaves_gradient_and_metrics(tiny_policy, make_batch, changes):
    reference = tiny_policy.frozen_copy()
    nudge(tiny_policy.train())
    batch = make_batch(tiny_policy, 4)
    results = []
    for more in ({}, changes):
        stage = make_stage(reference=reference, **more)
        experience = prepare(stage, tiny_policy, batch)
        results.append(backward(stage, tiny_policy, experience, 16))
    (plain, metrics), (saving, others) = results
    assert (saving - plain).norm() < 1e-5 * plain.norm()
    assert others == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    budget = changes.get("max_tokens_per_micro_batch")
    assert budget is None or len(stage.micro_batches(experience)) > 2
