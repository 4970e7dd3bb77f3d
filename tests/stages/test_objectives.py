"""Every objective on a policy: micro-batches, the plain gradient, and what each option does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from make_grpo import EQUAL, VARIED, Reward, backward, flat_gradient, logps_of, make_stage, prepare
from make_grpo import nudge as nudged

from omni_rlvr.config.objective import CHOICES
from omni_rlvr.functional.advantages import gdpo_advantages
from omni_rlvr.rollout.experience import completion_scores
from omni_rlvr.types import RewardOutput

pytestmark = pytest.mark.slow

LOSS_TYPES = CHOICES["loss_type"]


def options_of(loss_type: str) -> dict:
    return {"loss_type": loss_type, "epsilon_high": 5.0 if loss_type == "cispo" else None}


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).norm() < 1e-5 * b.norm())


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_one_times_eight_is_eight_times_one(tiny_policy, make_batch, loss_type):
    reference = tiny_policy.frozen_copy()
    nudged(tiny_policy)
    stage = make_stage(
        reference=reference, num_iterations=2, entropy_coef=0.01, top_entropy_quantile=0.5,
        contrast_coef=0.01, contrast_modality="audio", **options_of(loss_type),
    )  # fmt: skip
    experience = prepare(stage, tiny_policy, make_batch(tiny_policy, 2))
    assert len(experience) == 8
    nudged(tiny_policy, 0.05)
    at_once, metrics = backward(stage, tiny_policy, experience, 8)
    one_by_one, summed = backward(stage, tiny_policy, experience, 1)
    assert close(one_by_one, at_once)
    assert summed == pytest.approx(metrics, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_one_iteration_is_the_plain_policy_gradient(tiny_policy, make_batch, loss_type):
    # - sum_i w_i A_i sum_t log pi, every row alone over its own copy of its prompt (no shared
    # prefix), without a ratio. SAPO's slope at rho = 1 is 1 whatever its temperatures.
    stage = make_stage(**options_of(loss_type))
    batch = make_batch(tiny_policy, 2)
    experience = prepare(stage, tiny_policy, batch)
    gradient, _ = backward(stage, tiny_policy, experience)
    tiny_policy.zero_grad()
    embeds, num = (
        tiny_policy.prompts(batch, experience.features).embeds,
        int(experience.completion_mask.sum()),
    )
    loss = torch.zeros(())
    for i in range(8):
        b, size = int(experience.prompt_index[i]), int(experience.completion_mask[i].sum())
        prompt, ids = embeds[b, batch.prompt_mask[b].bool()], experience.completion_ids[i, :size]
        tail = tiny_policy.language_model.get_input_embeddings()(ids[:-1])
        logits = tiny_policy.language_model(
            inputs_embeds=torch.cat([prompt, tail]).unsqueeze(0)
        ).logits
        logps = logits[0, -size:].log_softmax(-1)[torch.arange(size), ids]
        by_token = {"bnpo": 1 / num, "dapo": 1 / num, "cispo": 1 / num, "dr_grpo": 1 / (8 * 6)}
        loss = (
            loss - by_token.get(loss_type, 1 / (8 * size)) * experience.advantages[i] * logps.sum()
        )
    loss.backward()
    assert close(gradient, flat_gradient(tiny_policy))


def test_dapo_counts_the_tokens_of_the_whole_batch_and_bnpo_those_of_the_minibatch(
    tiny_policy, make_batch
):
    stages = [make_stage(num_minibatches=2, loss_type=name) for name in ("dapo", "bnpo")]
    experience = prepare(stages[0], tiny_policy, make_batch(tiny_policy, 2))
    num = experience.completion_mask.sum().item()
    for first, second in zip(*(stage.minibatches(experience) for stage in stages), strict=True):
        dapo, bnpo = (
            backward(stage, tiny_policy, part)[0]
            for stage, part in zip(stages, (first, second), strict=True)
        )
        share = first.completion_mask.sum().item() / (num / 2)
        assert close(dapo, bnpo * share)


def test_the_kl_in_the_reward_leaves_the_loss(tiny_policy, make_batch):
    reference = tiny_policy.frozen_copy()
    nudged(tiny_policy, 0.2)
    batch = make_batch(tiny_policy, 2)
    stage = make_stage(
        reference=reference, beta=0.5, kl_in_reward=True, kl_estimator="k1", scale_rewards="none"
    )
    prepared = stage.prepare(tiny_policy, batch, torch.Generator().manual_seed(0))
    experience = prepared.experience
    assert experience.ref_per_token_logps is None
    assert experience.old_per_token_logps is None
    difference = (
        logps_of(tiny_policy, experience) - logps_of(reference, experience)
    ) * experience.completion_mask
    rewards = VARIED([""] * 8, [None] * 8, [1] * 8).rewards - 0.5 * difference.sum(dim=1)
    groups = rewards.view(2, 4)
    expected = (groups - groups.mean(dim=1, keepdim=True)).flatten()
    torch.testing.assert_close(experience.advantages, expected, atol=1e-4, rtol=0)
    mean = difference.sum().item() / experience.completion_mask.sum().item()
    assert prepared.metrics["kl"] == pytest.approx(mean, rel=1e-3)
    assert "kl" not in backward(stage, tiny_policy, experience)[1]


@pytest.mark.parametrize("estimator", CHOICES["advantage_estimator"])
def test_estimators_reach_the_advantages(tiny_policy, make_batch, estimator):
    # Rewards of the groups: 0 2 4 1 and 3 0 2 4, means 1.75 and 2.25, of all 2.
    batch = make_batch(tiny_policy, 2)
    stage = make_stage(advantage_estimator=estimator, scale_rewards="none")
    got = prepare(stage, tiny_policy, batch).advantages.tolist()
    first = {"rloo": -7 / 3, "reinforce_plus_plus": -2}.get(estimator, -1.75)
    assert got[0] == pytest.approx(first, abs=1e-5)
    own = prepare(make_stage(advantage_estimator=estimator), tiny_policy, batch).advantages
    assert (own[0].item() == pytest.approx(first, abs=1e-5)) == (estimator == "rloo")


def test_truncated_completions_teach_nothing_when_masked(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 4)
    plain, masking = make_stage(), make_stage(mask_truncated_completions=True)
    experience, masked = (prepare(stage, tiny_policy, batch) for stage in (plain, masking))
    assert torch.equal(experience.completion_ids, masked.completion_ids)
    truncated = masked.loss_mask.sum(dim=1) == 0
    assert 0 < truncated.sum() < len(masked)
    assert not torch.isin(torch.cat(masking.micro_batches(masked)), truncated.nonzero()).any()
    # Rows that count have the share that they have among all 16, as in TRL.
    kept = replace(experience, advantages=torch.where(truncated, 0, experience.advantages))
    expected = backward(plain, tiny_policy, kept)[0]
    assert close(backward(masking, tiny_policy, masked)[0], expected)


def test_only_the_tokens_of_highest_entropy_teach(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 2)
    stage = make_stage(top_entropy_quantile=0.25)
    experience = prepare(stage, tiny_policy, batch)
    with torch.no_grad():
        entropy = completion_scores(
            tiny_policy,
            experience,
            temperature=1.0,
            gradient_checkpointing=False,
            entropy_gradient=False,
        ).entropy
    chosen, others = experience.policy_mask.bool(), experience.completion_mask.bool()
    others = others & ~chosen
    assert chosen.sum() == pytest.approx(0.25 * experience.completion_mask.sum(), abs=1)
    assert entropy[chosen].min() > entropy[others].max() - 1e-5
    full = backward(make_stage(), tiny_policy, replace(experience, policy_mask=None))[0]
    assert not close(backward(stage, tiny_policy, experience)[0], full)


def test_the_entropy_bonus_raises_the_entropy(tiny_policy, make_batch):
    stage = make_stage(EQUAL, entropy_coef=1.0)
    experience = prepare(stage, tiny_policy, make_batch(tiny_policy, 2))
    entropies = []
    for _ in range(3):
        entropies.append(backward(stage, tiny_policy, experience)[1]["entropy"])
        with torch.no_grad():
            for weight in tiny_policy.parameters():
                if weight.grad is not None:
                    weight -= 0.05 * weight.grad
    assert entropies[0] < entropies[1] < entropies[2]


def test_gdpo_takes_the_terms_apart(tiny_policy, make_batch):
    class Two:
        weights = {"a": 1.0, "b": 0.5}

        def __call__(self, completions, examples, lengths) -> RewardOutput:
            a = torch.arange(len(completions)).float() % 2
            b = torch.arange(len(completions)).float() % 3
            return RewardOutput(a + 0.5 * b, {"a": a, "b": b})

    batch, reward = make_batch(tiny_policy, 2), Two()
    plain = prepare(make_stage(reward), tiny_policy, batch).advantages
    stage = make_stage(reward, multi_objective_aggregation="normalize_then_sum")
    got = prepare(stage, tiny_policy, batch).advantages
    terms = torch.stack(list(reward([""] * 8, [], []).terms.values()), dim=1)
    expected = gdpo_advantages(terms, torch.tensor([1.0, 0.5]), num_generations=4)
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(got, plain, atol=1e-2)


def test_the_contrast_pushes_away_from_the_policy_without_a_modality(tiny_policy, make_batch):
    stage = make_stage(EQUAL, contrast_coef=0.5, contrast_modality="video")
    batch = make_batch(tiny_policy, 4)  # prompts: both, video, audio, neither
    experience = prepare(stage, tiny_policy, batch)
    with torch.no_grad():
        away = (
            (logps_of(tiny_policy, experience) - experience.contrast_per_token_logps)
            .abs()
            .sum(dim=1)
        )
    has_video = torch.tensor([True, True, False, False]).repeat_interleave(4)
    assert (away[has_video] > 1e-3).all()
    assert (away[~has_video] < 1e-3).all()
    before = backward(stage, tiny_policy, experience)[1]
    assert before["modality/contrast_kl"] > 0
    with torch.no_grad():
        for weight in tiny_policy.parameters():
            if weight.grad is not None:
                weight -= 0.02 * weight.grad
    after = backward(stage, tiny_policy, experience)[1]
    assert after["modality/contrast_kl"] > before["modality/contrast_kl"]


def test_groups_without_spread_are_sampled_again(tiny_policy, make_batch):
    calls = []

    def equal_at_first(i: int, text: str) -> float:
        if i == 0:
            calls.append(text)
        return float(i) if len(calls) > 1 else 0.1

    batch = make_batch(tiny_policy, 2)
    stage = make_stage(Reward(equal_at_first), max_resample_times=3)
    prepared = stage.prepare(tiny_policy, batch, torch.Generator().manual_seed(0))
    assert len(calls) == 2
    assert prepared.metrics["num_resampled_groups"] == 2
    assert prepared.metrics["frac_reward_zero_std"] == 0
    assert prepared.experience.advantages.abs().sum() > 1
    assert [row["reward"] for row in prepared.completions] == list(range(8))
    # The batch and its features are the same: only the completions are new.
    once = make_stage(EQUAL).prepare(tiny_policy, batch, torch.Generator().manual_seed(0))
    assert prepared.experience.completion_ids.tolist() != once.experience.completion_ids.tolist()
    assert torch.equal(prepared.experience.prompt_index, once.experience.prompt_index)


def test_a_dropped_modality_is_dropped_for_the_whole_group(tiny_policy, make_batch):
    batch = make_batch(tiny_policy, 6, kinds=("av",))
    stage = make_stage(modality_dropout=0.9)
    experience = prepare(stage, tiny_policy, batch)
    video, audio = (
        {row for row, shape in enumerate(shapes) if shape is not None}
        for shapes in (experience.batch.video_shapes, experience.batch.audio_shapes)
    )
    assert video | audio == set(range(6))
    assert len(video & audio) < 6
    assert experience.prompt_index.tolist() == [b for b in range(6) for _ in range(4)]
    assert backward(stage, tiny_policy, experience)[0].norm() > 0
    again = prepare(stage, tiny_policy, batch)
    assert torch.equal(experience.completion_ids, again.completion_ids)


@pytest.mark.parametrize("keeps_activations", [True, False])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_rows_that_teach_nothing_give_no_gradient_at_all(
    tiny_policy, make_batch, loss_type, keeps_activations
):
    reference = tiny_policy.frozen_copy()
    options = {"reuse_rollout": keeps_activations, "micro_batch_size": 8, **options_of(loss_type)}
    stage = make_stage(EQUAL, reference, length=24, **options)
    experience = prepare(stage, tiny_policy, make_batch(tiny_policy, 2))
    assert (experience.activations is not None) == keeps_activations
    gradient, metrics = backward(stage, tiny_policy, experience, 8)
    assert metrics["kl"] == 0
    assert gradient.abs().max() == 0  # every bit of it
    nudged(tiny_policy)  # and once the policy has left the reference, it is pulled back
    stage = make_stage(EQUAL, reference, **options)
    experience = prepare(stage, tiny_policy, make_batch(tiny_policy, 2))
    assert backward(stage, tiny_policy, experience, 8)[0].abs().max() > 0


@pytest.mark.parametrize("kl_estimator", CHOICES["kl_estimator"])
@pytest.mark.parametrize("advantage_estimator", ["grpo", "rloo", "reinforce_plus_plus"])
def test_rounding_of_the_kl_in_the_reward_is_no_advantage(
    tiny_policy, make_batch, kl_estimator, advantage_estimator
):
    options = {
        "kl_in_reward": True, "kl_estimator": kl_estimator, "beta": 0.05,
        "advantage_estimator": advantage_estimator,
    }  # fmt: skip
    reference = tiny_policy.frozen_copy()
    before = tiny_policy.language_model.model.norm.weight.detach().clone()
    with torch.no_grad():  # a policy that has left the reference by less than float32 can tell
        tiny_policy.language_model.model.norm.weight.mul_(1 + 2**-22)
    stage = make_stage(EQUAL, reference, length=24, **options)
    assert not torch.equal(tiny_policy.language_model.model.norm.weight, before)
    experience = prepare(stage, tiny_policy, make_batch(tiny_policy, 2))
    assert experience.advantages.abs().max() == 0
    nudged(tiny_policy)  # a KL that is real ranks completions that earn the same
    experience = prepare(stage, tiny_policy, make_batch(tiny_policy, 2))
    assert experience.advantages.abs().max() > (1e-4 if advantage_estimator == "rloo" else 0.1)
