"""Group-relative policy optimisation, first as R1-Omni does it: sample G completions, score them by
rules, push the policy towards those better than their group's mean, with a k3 KL to the cold-start
model.

    L = - 1/N sum_i 1/|o_i| sum_t [ min(rho_t A_i, clip(rho_t, 1-eps, 1+eps_high) A_i) - beta k3_t ]

With one minibatch and one iteration rho is 1: the plain policy gradient of the reference.

Reference: DeepSeekMath, arXiv 2402.03300; R1-Omni, arXiv 2503.05379.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from omni_rlvr.functional import kl, losses
from omni_rlvr.functional.advantages import group_advantages
from omni_rlvr.functional.logprobs import TokenScores
from omni_rlvr.models.policy import Policy
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.rollout.decode import RollOut
from omni_rlvr.rollout.experience import completion_scores, micro_batches, select
from omni_rlvr.stages.base import Prepared, share
from omni_rlvr.stages.options import GrpoConfig
from omni_rlvr.stages.rollout_metrics import completion_rows, rollout_metrics
from omni_rlvr.types import Batch, Experience, Features, LossOutput, Rollout


class GrpoStage:
    """GRPO over groups of ``num_generations`` completions."""

    with_target = False

    def __init__(
        self, config: GrpoConfig, reward: Mixture, reference: Policy | None, roll_out: RollOut
    ):
        """Holds the recipe.

        Args:
            config: the hyper-parameters.
            reward: scores completions.
            reference: the frozen cold-start policy; None when beta is 0.
            roll_out: samples completions.
        """
        self.config = config
        self.reward = reward
        self.reference = reference
        self.roll_out = roll_out

    @torch.no_grad()
    def prepare(self, policy: Policy, batch: Batch, generator: torch.Generator) -> Prepared:
        """Samples, scores and compares: everything an update needs, each clip encoded once."""
        features = policy.encode(batch)
        rollout = self._rollout(policy, batch, features, generator)
        examples = [e for e in batch.examples for _ in range(self.config.num_generations)]
        scored = self.reward(rollout.texts, examples)
        advantages = group_advantages(
            scored.rewards,
            num_generations=self.config.num_generations,
            scale_rewards=self.config.scale_rewards,
        ).to(rollout.completion_ids.device)
        experience = Experience(
            batch=batch,
            features=features,
            prompt_index=torch.arange(len(batch), device=advantages.device).repeat_interleave(
                self.config.num_generations
            ),
            completion_ids=rollout.completion_ids,
            completion_mask=rollout.completion_mask,
            advantages=advantages,
        )
        metrics = rollout_metrics(rollout, scored, num_generations=self.config.num_generations)
        completions = completion_rows(rollout, scored, advantages, examples)
        return Prepared(self._with_logps(policy, experience), metrics, completions)

    def minibatches(self, experience: Experience) -> Iterator[Experience]:
        """Yields ``num_iterations`` passes over ``num_minibatches`` parts; no group is split."""
        num_prompts = len(experience.batch)
        for _ in range(self.config.num_iterations):
            for prompts in torch.arange(num_prompts).tensor_split(self.config.num_minibatches):
                if len(prompts) == num_prompts:
                    yield experience
                elif len(prompts):
                    rows = torch.isin(experience.prompt_index.cpu(), prompts).nonzero().squeeze(1)
                    yield select(experience, rows.to(experience.prompt_index.device))

    def micro_batches(self, whole: Experience) -> list[Tensor]:
        """Splits the rows that can teach into micro-batches."""
        return micro_batches(
            whole,
            self._rows(whole),
            max_rows=self.config.micro_batch_size,
            max_tokens=self.config.max_tokens_per_micro_batch,
        )

    def loss(self, policy: Policy, rows: Experience, whole: Experience) -> LossOutput:
        """Computes a micro-batch's share of the GRPO loss above."""
        assert rows.advantages is not None
        config, mask = self.config, rows.completion_mask
        scores = self._scores(policy, rows)
        logps = scores.logps
        old = logps.detach() if rows.old_per_token_logps is None else rows.old_per_token_logps
        high = config.epsilon if config.epsilon_high is None else config.epsilon_high
        objective, clipped = losses.clipped_surrogate(
            logps, old, rows.advantages, epsilon=config.epsilon, epsilon_high=high
        )
        loss = losses.sequence_mean(-objective, mask, num_sequences=len(whole))
        computed = whole.completion_mask[self._rows(whole)]
        metrics = {
            "policy_loss": loss.detach(),
            "entropy": share(scores.entropy, mask, computed),
            "clip_ratio/region_mean": share(clipped.float(), mask, computed),
        }
        if rows.ref_per_token_logps is not None:
            divergence = kl.k3(logps, rows.ref_per_token_logps)
            loss = loss + config.beta * losses.sequence_mean(
                divergence, mask, num_sequences=len(whole)
            )
            metrics["kl"] = share(divergence, mask, computed)
        return LossOutput(loss, {"loss": loss.detach(), **metrics})

    def _rollout(
        self, policy: Policy, batch: Batch, features: Features, generator: torch.Generator
    ) -> Rollout:
        sampling = self.config.sampling
        return self.roll_out(
            policy,
            policy.embed(batch, features),
            batch.prompt_mask,
            num_generations=self.config.num_generations,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repetition_penalty=sampling.repetition_penalty,
            max_completion_length=sampling.max_completion_length,
            generator=generator,
        )

    def _with_logps(self, policy: Policy, experience: Experience) -> Experience:
        """Adds the log-probs that the loss compares with.

        Old ones if the policy will have moved by the last update, the reference's if beta is not 0.
        """
        if self.config.num_iterations * self.config.num_minibatches > 1:
            experience = replace(experience, old_per_token_logps=self._logps(policy, experience))
        if self.reference is not None:
            experience = replace(
                experience, ref_per_token_logps=self._logps(self.reference, experience)
            )
        return experience

    def _logps(self, policy: Policy, experience: Experience) -> Tensor:
        """Scores the rows that can teach under a policy: [N, T], 0 in the others."""
        out = torch.zeros(experience.completion_ids.shape, device=experience.completion_ids.device)
        for rows in self.micro_batches(experience):
            logps = self._scores(policy, select(experience, rows)).logps
            out[rows, : logps.shape[1]] = logps
        return out

    def _scores(self, policy: Policy, rows: Experience) -> TokenScores:
        return completion_scores(
            policy,
            rows,
            temperature=self.config.sampling.temperature,
            gradient_checkpointing=self.config.gradient_checkpointing and torch.is_grad_enabled(),
        )

    def _rows(self, whole: Experience) -> Tensor:
        """The rows that can teach: without a KL, those of advantage 0 cannot."""
        assert whole.advantages is not None
        if self.reference is not None:
            return torch.arange(len(whole), device=whole.advantages.device)
        return whole.advantages.nonzero().squeeze(1)
