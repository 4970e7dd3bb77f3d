"""Group-relative policy optimisation (GRPO).

A step samples G completions per prompt, scores them by rules, and raises the probability of those
that score above the mean of their group. The default is R1-Omni's objective, with a k3 estimate of
the KL to the cold-start model:

    L = - 1/N sum_i 1/|o_i| sum_t [ min(rho_t A_i, clip(rho_t, 1-eps, 1+eps_high) A_i) - beta k3_t ]

With one minibatch and one iteration rho is 1, and the gradient is the plain policy gradient. The
other objectives are options of the same code: ``functional/objective`` lists them.

Reference: DeepSeekMath, arXiv 2402.03300; R1-Omni, arXiv 2503.05379.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from omni_rlvr import distributed
from omni_rlvr.config.stage import GrpoConfig
from omni_rlvr.functional.logprobs import TokenScores
from omni_rlvr.functional.objective import top_entropy_mask
from omni_rlvr.models.adapters.reference import is_at
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.sharding import gathered, is_sharded
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.rollout.encode import encode, make_prompts, without_encoded
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.rollout.experience import (
    completion_scores,
    keep_frozen,
    micro_batches,
    select,
    select_prompts,
)
from omni_rlvr.rollout.next_token import Generators, branch, generators_of
from omni_rlvr.stages.base import Given, Prepared
from omni_rlvr.stages.dynamic_sampling import Scored, resample_groups
from omni_rlvr.stages.global_batch import gather_rollout, own_prompts, with_counts
from omni_rlvr.stages.grpo_loss import (
    advantages_of,
    counts_of,
    kl_of_completions,
    loss_mask_of,
    not_finite,
    policy_loss,
    rows_with_gradient,
)
from omni_rlvr.stages.modality_dropout import drop_modalities, without_modalities
from omni_rlvr.stages.rollout_metrics import completion_rows, rollout_metrics
from omni_rlvr.types import Batch, Experience, Features, LossOutput, Rollout


def build(config: GrpoConfig, given: Given) -> GrpoStage:
    """Build the stage with its reward, its reference policy and its rollout engine."""
    assert given.reward is not None
    return GrpoStage(config, given.reward, given.reference, given.engine)


class GrpoStage:
    """GRPO over groups of ``num_generations`` completions."""

    with_target = False

    def __init__(
        self, config: GrpoConfig, reward: Mixture, reference: Policy | None, engine: RolloutEngine
    ):
        """Create the stage.

        Args:
            config: the hyper-parameters.
            reward: scores completions.
            reference: the frozen cold-start policy; None when beta is 0.
            engine: samples completions.
        """
        self.config = config
        self.reward = reward
        self.reference = reference
        self.engine = engine
        self._has_left_reference = reference is None

    @torch.no_grad()
    def prepare(self, policy: Policy, batch: Batch, generator: Generators) -> Prepared:
        """Sample completions, score them, and compute advantages and log-probs.

        Each clip is encoded once.
        """
        config = self.config
        with gathered(policy):
            features = all_features = encode(policy, batch)
            batch = without_encoded(batch)
            if config.modality_dropout > 0:
                batch, features = drop_modalities(
                    batch,
                    features,
                    policy.processor,
                    probability=config.modality_dropout,
                    generator=generator,
                )
            first = self._sampled(policy, batch, features, generator)
            scored, num_resampled = resample_groups(
                first,
                lambda prompts: self._sampled(
                    policy,
                    *select_prompts(batch, features, prompts.to(batch.prompt_ids.device)),
                    generators_of(generator, prompts),
                ),
                num_generations=config.num_generations,
                max_resample_times=config.max_resample_times,
            )
        rollout, device = scored.rollout, batch.prompt_ids.device
        experience = Experience(
            batch=batch,
            features=keep_frozen(policy, features),
            prompt_index=torch.arange(len(batch), device=device).repeat_interleave(
                config.num_generations
            ),
            completion_ids=rollout.completion_ids,
            completion_mask=rollout.completion_mask,
            activations=rollout.activations,
        )
        if config.mask_truncated_completions:
            ended = (~rollout.truncated).long().to(device).unsqueeze(1)
            experience = replace(experience, loss_mask=rollout.completion_mask * ended)
        experience, penalty = self._with_logps(policy, experience), None
        metrics: dict[str, float] = {}
        if config.kl_in_reward:
            experience, penalty, metrics = self._kl_into_reward(experience)
        step = gather_rollout(batch, rollout, scored.rewards, penalty)
        advantages = advantages_of(
            config, self.reward, step.scored, size=step.size, penalty=step.penalty
        )[step.own]
        experience = replace(experience, advantages=advantages.to(device))
        if config.max_resample_times > 0:
            (metrics["num_resampled_groups"],) = distributed.total([float(num_resampled)])
        metrics |= rollout_metrics(
            step.size, step.truncated, step.scored, num_generations=config.num_generations
        )
        examples = [e for e in batch.examples for _ in range(config.num_generations)]
        completions = completion_rows(rollout, scored.rewards, advantages, examples)
        wrong = not_finite(experience, rollout, scored.rewards, penalty)
        return Prepared(experience, all_features, metrics, completions, wrong)

    def minibatches(self, experience: Experience) -> Iterator[Experience]:
        """Yield ``num_iterations`` passes over ``num_minibatches`` parts; no group is split."""
        own, num_prompts = own_prompts(experience.batch)
        parts = [
            prompts
            for prompts in torch.arange(num_prompts).tensor_split(self.config.num_minibatches)
            if len(prompts)
        ]
        (counted,) = distributed.total([float(loss_mask_of(experience).sum())])
        experience = replace(experience, num_rollout_tokens=counted / len(parts))
        numbers = own[experience.prompt_index.cpu()]
        for _ in range(self.config.num_iterations):
            for prompts in parts:
                part = experience
                if len(prompts) < num_prompts:
                    rows = torch.isin(numbers, prompts).nonzero().squeeze(1)
                    part = select(experience, rows.to(experience.prompt_index.device))
                yield with_counts(part, counts_of(self.config, part))
                # The caller has now updated the weights. Sharded weights are compared with the
                # reference only in ``prepare``, where all ranks take part.
                self._has_left_reference |= is_sharded(self.reference)

    def micro_batches(self, minibatch: Experience) -> list[Tensor]:
        """Split the rows whose gradient may differ from zero into micro-batches."""
        return micro_batches(minibatch, rows_with_gradient(self.config, minibatch), self.config)

    def loss(self, policy: Policy, rows: Experience, minibatch: Experience) -> LossOutput:
        """Compute a micro-batch's share of the objective."""
        scores = self._scores(policy, rows)
        if rows.ref_per_token_logps is not None and (
            not self._has_left_reference if is_sharded(policy) else self._is_at_reference(policy)
        ):
            # at equal weights the KL is 0, but two forward passes round differently: use one only
            rows = replace(rows, ref_per_token_logps=scores.logps.detach())
        return policy_loss(self.config, rows, minibatch, scores)

    def _is_at_reference(self, policy: Policy) -> bool:
        """Whether all weights still equal those of the reference, so that the KL is 0.

        If the weights are sharded, every rank must call it: each compares its own shard.
        """
        if not self._has_left_reference:
            assert self.reference is not None
            is_equal = is_at(policy, self.reference)
            if is_sharded(policy):
                is_equal = all(distributed.gather(is_equal))
            self._has_left_reference = not is_equal
        return not self._has_left_reference

    def _sampled(
        self, policy: Policy, batch: Batch, features: Features, generator: Generators
    ) -> Scored:
        """Sample and score G completions of each prompt."""
        generator = branch(generator)
        if len(batch) == 0:  # a rank whose clips were all skipped
            nothing = batch.prompt_ids.new_zeros(0, 1)
            none = nothing[:, 0].bool()
            rollout = Rollout(nothing, nothing, nothing.float(), (), truncated=none, finite=none)
        else:
            sampling = self.config.sampling_of(len(batch))
            prompts = make_prompts(
                policy,
                batch,
                features,
                num_new=sampling.max_completion_length,
                key="stage.sampling.max_completion_length",
            )
            rollout = self.engine.sample(policy, prompts, sampling, generator, None)
        examples = [e for e in batch.examples for _ in range(self.config.num_generations)]
        lengths = rollout.completion_mask.sum(dim=1).tolist()
        return Scored(rollout, self.reward(rollout.texts, examples, lengths))

    def _with_logps(self, policy: Policy, experience: Experience) -> Experience:
        """Add the log-probs that the loss compares with, each only if an option needs it.

        They are those at rollout, those of the reference and those without one modality. The mask
        of the tokens with the highest entropy is added here too.
        """
        config, old = self.config, None
        if config.updates_per_step > 1 or config.kl_in_reward or config.top_entropy_quantile < 1:
            with gathered(policy):
                old, entropy = self._score_all(policy, experience)
            if config.top_entropy_quantile < 1:
                mask = loss_mask_of(experience)
                counted = torch.cat(distributed.gather(entropy[mask.bool()].cpu()))
                quantile, counted = config.top_entropy_quantile, counted.to(entropy.device)
                keep = top_entropy_mask(entropy, mask, quantile=quantile, counted=counted)
                experience = replace(experience, policy_mask=keep)
            if config.updates_per_step > 1 or config.kl_in_reward:
                experience = replace(experience, old_per_token_logps=old)
        if self.reference is not None:
            reference = self.reference.to(device=experience.completion_ids.device)
            ref, is_at_reference = old, self._is_at_reference(policy)
            if old is None or not is_at_reference:
                with gathered(reference if is_sharded(reference) else policy):
                    ref, _ = self._score_all(reference, experience)
            experience = replace(experience, ref_per_token_logps=ref)
        if config.contrast_modality is not None:
            lacks = torch.ones(len(experience.batch), dtype=torch.bool)
            batch, features = without_modalities(
                experience.batch,
                experience.features,
                policy.processor,
                video=lacks & (config.contrast_modality == "video"),
                audio=lacks & (config.contrast_modality == "audio"),
            )
            with gathered(policy):
                contrast, _ = self._score_all(
                    policy, replace(experience, batch=batch, features=features)
                )
            experience = replace(experience, contrast_per_token_logps=contrast)
        return experience

    def _kl_into_reward(
        self, experience: Experience
    ) -> tuple[Experience, Tensor, dict[str, float]]:
        """Move the KL from the loss into the rewards.

        Returns:
            The experience without reference log-probs; [N] the KL to subtract from the rewards; and
            the mean KL of a token, as a metric.
        """
        old, ref = experience.old_per_token_logps, experience.ref_per_token_logps
        assert old is not None
        assert ref is not None
        mask = experience.completion_mask
        divergence = kl_of_completions(self.config, old, ref, mask)
        if self.config.updates_per_step == 1:  # the policy is still the one that sampled: rho is 1
            experience = replace(experience, old_per_token_logps=None)
        in_all, num_tokens = distributed.total([float(divergence.sum()), float(mask.sum())])
        metrics = {"kl": in_all / num_tokens}
        experience = replace(experience, ref_per_token_logps=None)
        return experience, self.config.beta * divergence.cpu(), metrics

    def _score_all(self, policy: Policy, experience: Experience) -> tuple[Tensor, Tensor]:
        """Score all completions, micro-batch by micro-batch: log-probs and entropies, [N, T]."""
        shape, device = experience.completion_ids.shape, experience.completion_ids.device
        logps, entropy = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        every = torch.arange(len(experience), device=device)
        for rows in micro_batches(experience, every, self.config):
            scores = self._scores(policy, select(experience, rows))
            logps[rows, : scores.logps.shape[1]] = scores.logps
            entropy[rows, : scores.entropy.shape[1]] = scores.entropy
        return logps, entropy

    def _scores(self, policy: Policy, rows: Experience) -> TokenScores:
        return completion_scores(
            policy,
            rows,
            temperature=self.config.sampling.temperature,
            gradient_checkpointing=self.config.gradient_checkpointing and torch.is_grad_enabled(),
            entropy_gradient=self.config.entropy_coef > 0,
        )
