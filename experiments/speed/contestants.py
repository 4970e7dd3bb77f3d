"""One GRPO step of this project, and a naive version of the same step with plain transformers.

Both sample with the same numbers, give the same rewards and take the same optimiser step. A step
returns the seconds of its rollout and of the rest (log-probs of the reference, forward, backward,
optimiser).
"""

from __future__ import annotations

import copy

import torch
from clock import now
from torch import Tensor
from workload import (
    LEARNING_RATE,
    TEMPERATURE,
    Cell,
    Reward,
    TextPolicy,
    make_batch,
    make_model,
    prompt_ids,
)

from omni_rlvr.config.sampling import SamplingConfig, SamplingOptions
from omni_rlvr.config.stage import GrpoConfig
from omni_rlvr.functional.advantages import compute_advantages
from omni_rlvr.functional.kl import k3
from omni_rlvr.functional.losses import clipped_surrogate, sequence_mean
from omni_rlvr.models.policy import Policy
from omni_rlvr.rollout.engine import OnTokens
from omni_rlvr.rollout.experience import select
from omni_rlvr.rollout.hf import Generate
from omni_rlvr.rollout.next_token import Generators
from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.stages.grpo import GrpoStage
from omni_rlvr.types import Prompts, Rollout

Times = dict[str, float]


class Timed(SharedPrefix):
    """The engine, which notes how long it took."""

    seconds = 0.0

    def sample(
        self,
        policy: Policy,
        prompts: Prompts,
        sampling: SamplingConfig,
        generator: Generators,
        on_tokens: OnTokens | None,
    ) -> Rollout:
        """Sample, and note the time."""
        started = now()
        out = super().sample(policy, prompts, sampling, generator, on_tokens)
        self.seconds = now() - started
        return out


class Ours:
    """The stage that trains, without Lightning around it."""

    def __init__(self, cell: Cell, *, gradient_checkpointing: bool):
        self.policy, self.engine = TextPolicy(make_model(cell)), Timed()
        reference = copy.deepcopy(self.policy).requires_grad_(False).eval() if cell.beta else None
        config = GrpoConfig(
            num_generations=cell.generations,
            beta=cell.beta,
            micro_batch_size=cell.rows,
            gradient_checkpointing=gradient_checkpointing,
            sampling=SamplingOptions(
                temperature=TEMPERATURE, max_completion_length=cell.completion
            ),
        )
        self.stage = GrpoStage(config, Reward(), reference, self.engine)  # type: ignore[arg-type]
        self.batch = make_batch(prompt_ids(cell, cell.prompts))
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=LEARNING_RATE, fused=True)

    def step(self) -> Times:
        """Takes one step."""
        started = now()
        prepared = self.stage.prepare(self.policy, self.batch, torch.Generator().manual_seed(0))
        self.optimizer.zero_grad()
        for whole in self.stage.minibatches(prepared.experience):
            for rows in self.stage.micro_batches(whole):
                self.stage.loss(self.policy, select(whole, rows), whole).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        seconds = now() - started
        return {"rollout": self.engine.seconds, "update": seconds - self.engine.seconds}


class Naive:
    """``generate`` on expanded prompts, and whole rows with all their logits in the update."""

    def __init__(self, cell: Cell):
        self.cell, self.policy = cell, TextPolicy(make_model(cell))
        self.reference = copy.deepcopy(self.policy).requires_grad_(False).eval()
        self.batch = make_batch(prompt_ids(cell, cell.prompts))
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=LEARNING_RATE, fused=True)

    def step(self) -> Times:
        """Takes one step."""
        started = now()
        with torch.no_grad():
            rollout = Generate().sample(
                self.policy,  # type: ignore[arg-type]
                self.policy.prompts(self.batch, self.policy.encode(self.batch)),
                SamplingConfig(
                    num_generations=self.cell.generations,
                    max_completion_length=self.cell.completion,
                    temperature=TEMPERATURE,
                ),
                torch.Generator().manual_seed(0),
                None,
            )
        rolled_out = now()
        self._update(rollout)
        return {"rollout": rolled_out - started, "update": now() - rolled_out}

    def _update(self, rollout: Rollout) -> None:
        rewards = Reward()(rollout.texts, [], []).rewards
        advantages = compute_advantages(
            rewards,
            num_generations=self.cell.generations,
            estimator="grpo",
            scale_rewards="group",
        )
        ref = None
        if self.cell.beta:
            with torch.no_grad():
                ref = self._logps(self.reference, rollout.completion_ids)
        self.optimizer.zero_grad()
        logps = self._logps(self.policy, rollout.completion_ids)
        objective, _, _ = clipped_surrogate(
            logps - logps.detach(), advantages, epsilon=0.2, epsilon_high=0.2, delta=None
        )
        loss = sequence_mean(
            (0 if ref is None else self.cell.beta * k3(logps, ref)) - objective,
            rollout.completion_mask,
            num_sequences=self.cell.rows,
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()

    def _logps(self, policy: TextPolicy, ids: Tensor) -> Tensor:
        prompts = self.batch.prompt_ids.repeat_interleave(self.cell.generations, dim=0)
        rows = torch.cat([prompts, ids], dim=1)
        logits = policy.language_model(input_ids=rows).logits[:, self.cell.prompt - 1 : -1]
        return logits.log_softmax(dim=-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
