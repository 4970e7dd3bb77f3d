"""What GRPO's tests share: a reward that is told what to give, stages, whole gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from omni_rlvr.config.sampling import SamplingOptions
from omni_rlvr.config.stage import GrpoConfig
from omni_rlvr.rollout.experience import completion_scores, select
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.stages.base import add_up
from omni_rlvr.stages.grpo import GrpoStage
from omni_rlvr.types import Experience, RewardOutput


class Reward:
    """Scores each completion by its row number and text, as a mixture of one term would."""

    def __init__(self, score: Callable[[int, str], float]):
        self.score = score

    def __call__(self, completions, examples, lengths) -> RewardOutput:
        assert len(completions) == len(examples) == len(lengths)
        rewards = torch.tensor([float(self.score(i, text)) for i, text in enumerate(completions)])
        return RewardOutput(rewards=rewards, terms={"only": rewards})


VARIED = Reward(lambda i, text: (i * 7) % 5)
EQUAL = Reward(lambda i, text: 0.1)


def make_stage(reward=VARIED, reference=None, *, length: int = 6, **changes) -> GrpoStage:
    sampling = SamplingOptions(max_completion_length=length, **changes.pop("sampling", {}))
    settings = {"num_generations": 4, "beta": 0.04 if reference else 0.0, "micro_batch_size": 8}
    config = GrpoConfig(sampling=sampling, **settings | changes)
    return GrpoStage(config, reward, reference, SharedPrefix())


def prepare(stage, policy, batch, seed: int = 0) -> Experience:
    return stage.prepare(policy, batch, torch.Generator().manual_seed(seed)).experience


def backward(stage, policy, minibatch, micro_batch_size: int = 8):
    """Adds up a minibatch's shares; returns the whole gradient as a vector, and the metrics."""
    policy.zero_grad()
    sums: dict[str, float] = {}
    config = replace(stage.config, micro_batch_size=micro_batch_size)
    for rows in GrpoStage(config, stage.reward, stage.reference, stage.engine).micro_batches(
        minibatch
    ):
        out = stage.loss(policy, select(minibatch, rows), minibatch)
        out.loss.backward()
        add_up(sums, out.metrics)
    return flat_gradient(policy), sums


def logps_of(policy, experience, temperature: float = 1.0) -> torch.Tensor:
    """[N, T] log-probs of an experience's completions, without gradient."""
    with torch.no_grad():
        return completion_scores(
            policy,
            experience,
            temperature=temperature,
            gradient_checkpointing=False,
            entropy_gradient=False,
        ).logps


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
