"""GRPO: plain policy gradient at one update, old and reference log-probs if used, learning."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from omni_rlvr.config.schema import GrpoConfig, SamplingConfig
from omni_rlvr.functional.logprobs import per_token_logps
from omni_rlvr.rollout.experience import all_rows, completion_logits, select
from omni_rlvr.stages.grpo import GrpoStage
from omni_rlvr.types import Experience, RewardOutput


class Reward:
    """Scores each completion by its row number and text, as a mixture of one term would."""

    def __init__(self, score: Callable[[int, str], float]):
        self.score = score

    def __call__(self, completions, examples) -> RewardOutput:
        assert len(completions) == len(examples)
        rewards = torch.tensor([float(self.score(i, text)) for i, text in enumerate(completions)])
        return RewardOutput(rewards=rewards, terms={"only": rewards})


VARIED = Reward(lambda i, text: (i * 7) % 5)
EQUAL = Reward(lambda i, text: 0.1)


def make_stage(reward=VARIED, reference=None, *, length: int = 6, **changes) -> GrpoStage:
    sampling = SamplingConfig(max_completion_length=length, **changes.pop("sampling", {}))
    settings = {"num_generations": 4, "beta": 0.04 if reference else 0.0, "micro_batch_size": 8}
    return GrpoStage(GrpoConfig(sampling=sampling, **settings | changes), reward, reference)


def prepare(stage, policy, batch, seed: int = 0) -> Experience:
    return stage.prepare(policy, batch, torch.Generator().manual_seed(seed)).experience


def backward(stage, policy, whole, micro_batch_size: int = 8):
    """Adds up a minibatch's shares; returns the whole gradient as a vector, and the metrics."""
    policy.zero_grad()
    sums: dict[str, float] = {}
    for rows in all_rows(len(whole), micro_batch_size):
        out = stage.loss(policy, select(whole, rows), whole)
        out.loss.backward()
        for name, value in out.metrics.items():
            sums[name] = sums.get(name, 0) + value.item()
    return flat_gradient(policy), sums


def flat_gradient(policy) -> torch.Tensor:
    """The gradient of all trainable weights in one vector; 0 where a weight was not used."""
    weights = [p for p in policy.parameters() if p.requires_grad]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in weights]
    return torch.cat([grad.flatten() for grad in grads])


def nudge(policy, size: float = 0.02) -> None:
    """Moves every trainable weight a little, as an optimiser step would."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight.add_(size * torch.randn(weight.shape, generator=generator) * weight.std())


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
    whole = prepare(stage, tiny_policy, batch)
    gradient, metrics = backward(stage, tiny_policy, whole)
    # Naively: every row alone and without padding, - 1/N sum_i A_i 1/|o_i| sum_t log pi.
    tiny_policy.zero_grad()
    embeds = tiny_policy.embed(batch, whole.features)
    loss = torch.zeros(())
    for i in range(16):
        b, size = int(whole.prompt_index[i]), int(whole.completion_mask[i].sum())
        prompt, ids = embeds[b, batch.prompt_mask[b].bool()], whole.completion_ids[i, :size]
        tail = tiny_policy.language_model.get_input_embeddings()(ids[:-1])
        logits = tiny_policy.language_model(
            inputs_embeds=torch.cat([prompt, tail]).unsqueeze(0)
        ).logits
        logps = logits[0, -size:].log_softmax(-1)[torch.arange(size), ids]
        loss = loss - whole.advantages[i] * logps.mean() / 16
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
    whole = prepare(stage, tiny_policy, make_batch(tiny_policy, 4))
    assert len(whole) == 8
    at_once, metrics = backward(stage, tiny_policy, whole, 8)
    for size in (1, 3):
        parts, summed = backward(stage, tiny_policy, whole, size)
        assert (parts - at_once).norm() < 1e-5 * at_once.norm()
        assert summed == pytest.approx(metrics, rel=1e-4, abs=1e-6)
    assert ("kl" in metrics) == with_reference


def test_equal_rewards_leave_the_policy_where_it_is(tiny_policy, make_batch):
    stage = make_stage(EQUAL, num_generations=7)
    prepared = stage.prepare(tiny_policy, make_batch(tiny_policy, 2), torch.Generator())
    assert prepared.metrics["frac_reward_zero_std"] == 1
    assert prepared.metrics["reward_std_within_group"] == pytest.approx(0, abs=1e-6)
    gradient, metrics = backward(stage, tiny_policy, prepared.experience)
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert all(math.isfinite(value) for value in metrics.values())


def test_a_row_that_could_not_be_judged_teaches_nothing(tiny_policy, make_batch):
    stage = make_stage(Reward(lambda i, text: math.nan if i == 2 else i))
    whole = prepare(stage, tiny_policy, make_batch(tiny_policy, 2))
    assert whole.advantages[2] == 0
    policy_rows = select(whole, torch.tensor([2]))
    stage.loss(tiny_policy, policy_rows, whole).loss.backward()
    grads = [p.grad for p in tiny_policy.parameters() if p.grad is not None]
    assert all(torch.equal(g, torch.zeros_like(g)) for g in grads)


def test_a_reference_like_the_policy_adds_nothing(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4)
    plain = make_stage()
    expected, _ = backward(plain, tiny_policy, prepare(plain, tiny_policy, batch))
    stage = make_stage(reference=tiny_policy.frozen_copy(), beta=1.0)
    whole = prepare(stage, tiny_policy, batch)
    gradient, metrics = backward(stage, tiny_policy, whole)
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
    whole = prepare(stage, tiny_policy, make_batch(tiny_policy, 2))
    with torch.no_grad():
        logps, ref = (
            per_token_logps(completion_logits(p, whole), whole.completion_ids, temperature=1)
            for p in (tiny_policy, reference)
        )
    torch.testing.assert_close(whole.ref_per_token_logps, ref, atol=2e-5, rtol=0)
    _, metrics = backward(stage, tiny_policy, whole)
    mask = whole.completion_mask
    k3 = ((ref - logps).exp() - (ref - logps) - 1) * mask
    assert metrics["kl"] == pytest.approx((k3.sum() / mask.sum()).item(), rel=1e-3)
    assert metrics["kl"] > 1e-3
    per_sequence = (k3.sum(dim=1) / mask.sum(dim=1)).mean()
    assert metrics["loss"] == pytest.approx(0.5 * per_sequence.item(), rel=1e-3)


@pytest.mark.parametrize(("iterations", "minibatches"), [(1, 1), (2, 1), (1, 2), (3, 4), (2, 3)])
def test_minibatches_cover_every_row_in_every_iteration(
    tiny_policy, make_batch, iterations, minibatches
):
    stage = make_stage(num_iterations=iterations, num_minibatches=minibatches, num_generations=2)
    whole = prepare(stage, tiny_policy, make_batch(tiny_policy, 4))
    parts = list(stage.minibatches(whole))
    assert len(parts) == iterations * minibatches
    for k in range(iterations):
        one_pass = parts[k * minibatches : (k + 1) * minibatches]
        seen = torch.cat([part.advantages for part in one_pass])
        assert torch.equal(seen, whole.advantages)
        names = [[e.id for e in part.batch.examples] for part in one_pass]
        assert [name for part in names for name in part] == [f"clip{b}" for b in range(4)]
        for part in one_pass:  # groups stay whole
            assert len(part) == 2 * len(part.batch)
    assert (whole.old_per_token_logps is None) == (iterations * minibatches == 1)


def test_fewer_prompts_than_minibatches_gives_no_empty_one(tiny_policy, make_batch):
    stage = make_stage(num_minibatches=4)
    whole = prepare(stage, tiny_policy, make_batch(tiny_policy, 2))
    assert [len(part) for part in stage.minibatches(whole)] == [4, 4]


def test_old_logps_are_those_of_the_rollout_and_enter_the_ratio(tiny_policy, make_batch):
    stage = make_stage(num_iterations=2, sampling={"temperature": 0.7}, epsilon_high=0.3)
    whole = prepare(stage, tiny_policy, make_batch(tiny_policy, 4))

    def logps():
        logits = completion_logits(tiny_policy, whole)
        return per_token_logps(logits, whole.completion_ids, temperature=0.7)

    with torch.no_grad():
        mask = whole.completion_mask
        old = whole.old_per_token_logps
        torch.testing.assert_close(old * mask, logps() * mask, atol=2e-5, rtol=0)
        nudge(tiny_policy, 0.3)
        ratio, a = (logps() - old).exp(), whole.advantages.unsqueeze(1)
        objective = torch.minimum(ratio * a, ratio.clamp(0.8, 1.3) * a)
        expected = -((objective * mask).sum(dim=1) / mask.sum(dim=1)).mean()
        clipped = ((ratio < 0.8) & (a < 0)) | ((ratio > 1.3) & (a > 0))
    _, metrics = backward(stage, tiny_policy, whole, 3)
    assert metrics["policy_loss"] == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    share = (clipped * mask).sum() / mask.sum()
    assert 0 < share < 1
    assert metrics["clip_ratio/region_mean"] == pytest.approx(share.item(), abs=0.02)


def test_epsilon_high_unset_is_epsilon(tiny_policy, make_batch):
    whole = prepare(make_stage(num_iterations=2), tiny_policy, make_batch(tiny_policy, 2))
    nudge(tiny_policy, 0.3)
    losses = {
        high: backward(make_stage(num_iterations=2, epsilon_high=high), tiny_policy, whole)[1]
        for high in (None, 0.2, 5.0)
    }
    assert losses[None] == losses[0.2]
    assert losses[None] != losses[5.0]


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
    whole = prepare(stage, tiny_policy, make_batch(tiny_policy, 2))
    for value in (whole.old_per_token_logps, whole.ref_per_token_logps, whole.features.video):
        assert not value.requires_grad
        assert not value.is_inference()
    assert all(torch.equal(v, before[k]) for k, v in tiny_policy.state_dict().items())


def test_the_seed_decides_the_rollout(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 2)
    a, b, c = (prepare(make_stage(), tiny_policy, batch, seed=s).completion_ids for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


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


@pytest.mark.parametrize(("num_iterations", "kinds"), [(1, ("av", "t")), (2, ("t", "a"))])
def test_learns_to_start_with_a_given_token(tiny_policy, make_batch, num_iterations, kinds):
    batch = make_batch(tiny_policy, 2, kinds=kinds)
    tokenizer = tiny_policy.processor.tokenizer
    with torch.no_grad():
        embeds = tiny_policy.embed(batch, tiny_policy.encode(batch))
        out = tiny_policy.language_model(inputs_embeds=embeds, attention_mask=batch.prompt_mask)
    start = out.logits[:, -1].softmax(-1).mean(dim=0)
    words = [i for i in range(len(start)) if len(tokenizer.decode([i]).strip()) > 1]
    token = max(words, key=lambda i: start[i] if i >= 5 else 0.0)  # the first five are special
    text = tokenizer.decode([token])
    stage = make_stage(
        Reward(lambda i, completion: completion.startswith(text)),
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


def test_a_groups_share_does_not_depend_on_the_other_groups(tiny_policy, make_batch):
    stage = make_stage()
    whole = prepare(stage, tiny_policy, make_batch(tiny_policy, 4))
    part = select(whole, torch.arange(4, 8))
    alone, _ = backward(stage, tiny_policy, part)
    tiny_policy.zero_grad()
    stage.loss(tiny_policy, part, whole).loss.backward()
    # 4 of 16 rows: a quarter of what they teach alone.
    assert (flat_gradient(tiny_policy) - alone / 4).norm() < 1e-5 * alone.norm()
