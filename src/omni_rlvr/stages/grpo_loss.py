"""Pass the tensors and counts of an experience to the pure functions of the objective.

The arithmetic of losses and advantages is in ``functional/objective`` and
``functional/advantages``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from omni_rlvr.config.stage import GrpoConfig
from omni_rlvr.functional import kl
from omni_rlvr.functional.advantages import compute_advantages, gdpo_advantages, penalised
from omni_rlvr.functional.logprobs import TokenScores
from omni_rlvr.functional.objective import MinibatchCounts, Tokens, masked, policy_objective
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.types import Counts, Experience, LossOutput, RewardOutput, Rollout


def advantages_of(
    config: GrpoConfig,
    reward: Mixture,
    scored: RewardOutput,
    *,
    size: Tensor,
    penalty: Tensor | None,
) -> Tensor:
    """Compute the advantages that the options ask for.

    With the KL in the reward, completions of equal task reward differ by their KL alone. A
    difference within the KL's rounding error is then taken as 0.

    Args:
        config: the options.
        reward: has the weights of the terms.
        scored: rewards and terms of N completions.
        size: [N] lengths in tokens.
        penalty: [N] beta times the KL, to subtract from the rewards, or None.

    Returns:
        [N] float32.
    """
    if config.multi_objective_aggregation == "normalize_then_sum":
        terms = torch.stack(list(scored.terms.values()), dim=1)
        weights = torch.tensor([reward.weights[name] for name in scored.terms])
        return gdpo_advantages(terms, weights, num_generations=config.num_generations)
    rewards = scored.rewards
    if penalty is not None:
        whole_batch = config.advantage_estimator == "reinforce_plus_plus"
        rewards = penalised(
            rewards,
            penalty,
            config.beta * kl.ROUNDING * size,
            num_generations=len(rewards) if whole_batch else config.num_generations,
        )
    return compute_advantages(
        rewards,
        num_generations=config.num_generations,
        estimator=config.advantage_estimator,
        scale_rewards=config.scale_rewards,
    )


def kl_of_completions(config: GrpoConfig, logps: Tensor, ref_logps: Tensor, mask: Tensor) -> Tensor:
    """Estimate each completion's KL to the reference, summed over its tokens: [N] nats."""
    log_ratio = masked(logps - ref_logps, mask)
    return kl.ESTIMATORS[config.kl_estimator](log_ratio, torch.zeros_like(log_ratio)).sum(dim=1)


def not_finite(
    experience: Experience, rollout: Rollout, scored: RewardOutput, penalty: Tensor | None
) -> dict[str, int]:
    """Count the rows in which a value that the loss reads is NaN or infinite.

    A reward of NaN does not count: it marks a row that no term could score.

    Args:
        experience: N rows with their log-probs.
        rollout: the rollout of these rows.
        scored: the rewards of these rows.
        penalty: [N] the KL to subtract from the rewards, or None.

    Returns:
        Name of the value -> number of rows, without values that are finite in all rows.
    """
    rows = {
        "logits while sampling": ~rollout.finite,
        "rewards": scored.rewards.isinf(),
        "the KL in the reward": None if penalty is None else ~penalty.isfinite(),
    }
    for name, logps in (
        ("log-probabilities at rollout", experience.old_per_token_logps),
        ("log-probabilities of the reference", experience.ref_per_token_logps),
        ("log-probabilities without a modality", experience.contrast_per_token_logps),
    ):
        mask = experience.completion_mask
        rows[name] = None if logps is None else ~masked(logps, mask).isfinite().all(dim=1)
    counts = {name: int(wrong.sum()) for name, wrong in rows.items() if wrong is not None}
    return {name: count for name, count in counts.items() if count}


def loss_mask_of(experience: Experience) -> Tensor:
    """Return the mask of the tokens that the loss counts, [N, T]."""
    return experience.completion_mask if experience.loss_mask is None else experience.loss_mask


def rows_with_gradient(config: GrpoConfig, minibatch: Experience) -> Tensor:
    """List the rows whose gradient may differ from zero, [n] int64.

    The gradient of a row is zero if the loss counts none of its tokens. It is also zero if its
    advantage is 0 and the loss has no KL, no entropy bonus and no contrast.
    """
    assert minibatch.advantages is not None
    has_gradient = minibatch.advantages != 0
    compared = (minibatch.ref_per_token_logps, minibatch.contrast_per_token_logps)
    if config.entropy_coef or any(logps is not None for logps in compared):
        has_gradient = torch.ones_like(has_gradient)
    return (has_gradient & loss_mask_of(minibatch).bool().any(dim=1)).nonzero().squeeze(1)


def policy_loss(
    config: GrpoConfig, rows: Experience, minibatch: Experience, scores: TokenScores
) -> LossOutput:
    """Compute a micro-batch's share of the objective.

    Args:
        config: the options.
        rows: the micro-batch.
        minibatch: the minibatch that ``rows`` belongs to.
        scores: log-probs and entropies of ``rows`` under the policy, with gradient.
    """
    assert rows.advantages is not None
    tokens = Tokens(
        logps=scores.logps,
        mask=loss_mask_of(rows),
        advantages=rows.advantages,
        old_logps=rows.old_per_token_logps,
        ref_logps=rows.ref_per_token_logps,
        contrast_logps=rows.contrast_per_token_logps,
        policy_mask=rows.policy_mask,
        entropy=scores.entropy,
    )
    loss, metrics = policy_objective(
        tokens,
        _minibatch_counts(config, minibatch),
        loss_type=config.loss_type,
        epsilon=config.epsilon,
        epsilon_high=config.upper_clip,
        delta=config.delta,
        sapo_temperature_pos=config.sapo_temperature_pos,
        sapo_temperature_neg=config.sapo_temperature_neg,
        beta=config.beta,
        kl_estimator=config.kl_estimator,
        entropy_coef=config.entropy_coef,
        contrast_coef=config.contrast_coef,
    )
    return LossOutput(loss, metrics)


def counts_of(config: GrpoConfig, minibatch: Experience) -> Counts:
    """Count the rows and tokens of a rank's part of a minibatch."""
    mask, rows = loss_mask_of(minibatch), rows_with_gradient(config, minibatch)
    policy_mask = mask if minibatch.policy_mask is None else mask * minibatch.policy_mask
    return Counts(
        num_sequences=len(minibatch),
        num_tokens=float(mask.sum()),
        num_policy_tokens=float(policy_mask.sum()),
        num_scored_tokens=float(mask[rows].sum()),
        num_left_out=int(mask.bool().any(dim=1).sum()) - len(rows),
    )


def _minibatch_counts(config: GrpoConfig, minibatch: Experience) -> MinibatchCounts:
    counts = minibatch.counts or counts_of(config, minibatch)
    of_batch = minibatch.num_rollout_tokens
    return MinibatchCounts(
        num_sequences=counts.num_sequences,
        num_tokens=counts.num_tokens,
        num_policy_tokens=counts.num_policy_tokens,
        num_scored_tokens=counts.num_scored_tokens,
        num_rollout_tokens=counts.num_tokens if of_batch is None else of_batch,
        max_completion_length=config.sampling.max_completion_length,
        leaves_rows_out=counts.num_left_out > 0,
    )
