"""Rollout and update of Qwen-Omni: shared prefixes, gradients, log-probs, adapters, a reference."""

from __future__ import annotations

import pytest
import torch
from make_qwen import Case, batch_of, prompts_of

from omni_rlvr.config.sampling import SamplingOptions, greedy
from omni_rlvr.config.stage import GrpoConfig, SftConfig
from omni_rlvr.config.trainable import LoraConfig, TrainableConfig
from omni_rlvr.data.loader import move
from omni_rlvr.models.adapters.trainable import apply
from omni_rlvr.models.prefix.attention_hook import can_share
from omni_rlvr.models.prefix.scoring import Rows, completion_hidden
from omni_rlvr.rollout.experience import completion_scores, select
from omni_rlvr.rollout.hf import Generate
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.stages.grpo import GrpoStage
from omni_rlvr.stages.sft import SftStage
from omni_rlvr.types import Experience, RewardOutput, UserError

CASES = (Case(4, 2.0, 2.0), Case(6, 1.9), Case(sound_s=1.3), Case(4, 2.0, 3.0), Case())
LORA = TrainableConfig(lora=LoraConfig(enabled=True, r=2))


def varied(completions, examples, lengths) -> RewardOutput:
    rewards = torch.tensor([float((i * 7) % 5) for i in range(len(completions))])
    return RewardOutput(rewards, {"only": rewards})


def grpo(**changes) -> GrpoConfig:
    sampling = SamplingOptions(max_completion_length=6)
    return GrpoConfig(**{"sampling": sampling, "num_generations": 3, "beta": 0.0} | changes)


def rows_of(policy) -> Rows:
    """Eight completions of one to five tokens over the five prompts."""
    prompts = prompts_of(policy, batch_of(policy.processor, CASES))
    owners = torch.tensor([0, 1, 0, 2, 3, 4, 0, 3])
    lengths = torch.tensor([5, 1, 4, 5, 2, 3, 5, 5])
    mask = (torch.arange(5) < lengths.unsqueeze(1)).long()
    ids = torch.randint(10, 250, mask.shape, generator=torch.Generator().manual_seed(0)) * mask
    return Rows(prompts, owners, ids, mask)


def alone(policy, rows: Rows) -> torch.Tensor:
    """Hidden states that predict each token, every row by itself in transformers' modules."""
    model, out = policy.language_model, []
    for ids, mask, owner in zip(rows.ids, rows.mask, rows.prompt_index, strict=True):
        here = rows.prompts.mask[owner].bool()
        tail = model.get_input_embeddings()(ids[: mask.sum() - 1])
        places = rows.prompts.positions[:, owner, here]
        later = places.max() + 1 + torch.arange(len(tail))
        hidden = model.model(
            inputs_embeds=torch.cat([rows.prompts.embeds[owner, here], tail]).unsqueeze(0),
            position_ids=torch.cat([places, later.expand(3, -1)], dim=-1).unsqueeze(1),
            use_cache=False,
        ).last_hidden_state[0]
        out.append(hidden[-len(tail) - 1 :])
    return torch.cat(out)


def gradient(policy, hidden: torch.Tensor) -> torch.Tensor:
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    policy.zero_grad()
    (hidden * weights).sum().backward()
    return flat(policy)


def flat(policy) -> torch.Tensor:
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in trained]
    return torch.cat([grad.flatten() for grad in grads])


def prepared(policy, folder, trainable: TrainableConfig):
    """A policy in which something trains; adapters have left their start."""
    apply(policy, trainable, folder)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    return policy.train()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("trainable", [TrainableConfig(), LORA], ids=["full", "lora"])
def test_gradients_over_shared_prefixes_are_those_of_rows_alone(
    policy, folder, trainable, checkpointing
):
    assert can_share(policy.language_model)
    prepared(policy, folder, trainable)
    rows = rows_of(policy)
    want = alone(policy, rows)
    want_gradient = gradient(policy, want)
    shared = completion_hidden(
        policy.language_model, rows_of(policy), gradient_checkpointing=checkpointing
    )
    torch.testing.assert_close(shared, want, atol=1e-5, rtol=1e-5)
    got = gradient(policy, shared)
    assert want_gradient.norm() > 1e-2
    assert (got - want_gradient).norm() < 1e-5 * want_gradient.norm()


@pytest.mark.parametrize("trainable", [TrainableConfig(), LORA], ids=["full", "lora"])
def test_an_update_scores_what_the_rollout_sampled(policy, folder, trainable):
    prepared(policy, folder, trainable)
    batch = batch_of(policy.processor, CASES)
    sampling, generator = grpo().sampling_of(len(batch)), torch.Generator().manual_seed(4)
    with torch.no_grad():
        features = policy.encode(batch)
        prompts = policy.prompts(batch, features)
        rollout = SharedPrefix().sample(policy, prompts, sampling, generator, None)
        owners = torch.arange(len(batch)).repeat_interleave(sampling.num_generations)
        experience = Experience(
            batch, features, owners, rollout.completion_ids, rollout.completion_mask
        )
        scores = completion_scores(
            policy,
            experience,
            temperature=1.0,
            gradient_checkpointing=False,
            entropy_gradient=False,
        )
    torch.testing.assert_close(scores.logps, rollout.per_token_logps, atol=1e-5, rtol=0)


@pytest.mark.parametrize("trainable", [TrainableConfig(), LORA], ids=["full", "lora"])
def test_a_grpo_step_trains_what_it_should(policy, folder, trainable):
    prepared(policy, folder, trainable)
    reference = policy.frozen_copy()
    stage = GrpoStage(grpo(beta=0.04), varied, reference, SharedPrefix())
    step(policy, stage, batch_of(policy.processor, CASES))
    for name, weight in policy.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, name


def test_an_sft_step_is_independent_of_its_micro_batches(policy, folder):
    prepared(policy, folder, TrainableConfig())
    gradients = []
    for size in (5, 1):
        policy.zero_grad()
        step(policy, SftStage(SftConfig(micro_batch_size=size)), batch_of(policy.processor, CASES))
        gradients.append(flat(policy))
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()


def test_a_tower_trains_and_what_nothing_depends_on_does_not(policy, folder):
    prepared(policy, folder, TrainableConfig(audio_tower=True, vision_tower=True))
    step(policy, SftStage(SftConfig()), batch_of(policy.processor, CASES))
    for name, weight in policy.named_parameters():
        assert (weight.grad is not None) == (name not in policy.never_trained), name


def test_fractions_of_positions_survive_half_precision_and_the_way_to_the_device(policy):
    policy.to(torch.bfloat16)
    batch = move(batch_of(policy.processor, [Case(12, 1.9, 6.3)]), torch.device("cpu"))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        prompts = prompts_of(policy, batch)
    assert prompts.embeds.dtype == torch.bfloat16
    assert prompts.positions.dtype == torch.float32
    assert torch.equal(prompts.positions, batch.prompt_positions)
    assert prompts.positions.max() > 64  # bfloat16 has no fractions there


def test_an_engine_that_counts_tokens_is_refused(policy):
    prompts = prompts_of(policy, batch_of(policy.processor, CASES))
    sampling = greedy(max_completion_length=2)
    with pytest.raises(UserError, match="use rollout=shared_prefix"):
        Generate().sample(policy, prompts, sampling, torch.Generator(), None)


def step(policy, stage, batch) -> None:
    """Add up the gradients of one step of a stage."""
    experience = stage.prepare(policy, batch, torch.Generator().manual_seed(0)).experience
    for minibatch in stage.minibatches(experience):
        for rows in stage.micro_batches(minibatch):
            stage.loss(policy, select(minibatch, rows), minibatch).loss.backward()
