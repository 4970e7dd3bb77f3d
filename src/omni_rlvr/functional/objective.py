"""The definition of each ``loss_type``: a surrogate, and the normaliser of its sum.

| loss_type | surrogate | L = - sum_i w_i sum_t J_it |
|---|---|---|
| grpo | clipped ratio | w_i = 1 / (rows of the minibatch x length of row i) |
| bnpo | clipped ratio | w = 1 / tokens of the minibatch |
| dr_grpo | clipped ratio | w = 1 / (rows of the minibatch x max_completion_length) |
| dapo | clipped ratio | w = 1 / tokens of the rollout batch, per minibatch |
| gspo | clipped ratio of the sequence | as grpo |
| cispo | weighted log-likelihood | as dapo |
| sapo | sigmoid gate | as grpo |

``policy_objective`` gives one micro-batch's share, KL and entropy bonus included; shares of a
minibatch add up to its loss, whatever the split.

Reference:
    grpo: arXiv 2402.03300; bnpo: TRL's name; dr_grpo: arXiv 2503.20783; dapo: arXiv 2503.14476;
    gspo: arXiv 2507.18071; cispo: arXiv 2506.13585; sapo: arXiv 2511.20347.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omni_rlvr.functional import kl, losses

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo")
ROW_MEAN = ("grpo", "gspo", "sapo")
ROW_ENDS = {
    "clip_ratio/low_mean": "clip_ratio/low_min",
    "clip_ratio/high_mean": "clip_ratio/high_max",
}
"""Metric of the share of clipped tokens -> that of the least or greatest share in a row, as in TRL.
"""


@dataclass(frozen=True)
class Tokens:
    """The per-token inputs of the objective, for one micro-batch."""

    logps: Tensor
    """[n, T] log pi with gradient, in nats."""
    mask: Tensor
    """[n, T], 1 on the tokens that the loss counts."""
    advantages: Tensor
    """[n]."""
    old_logps: Tensor | None = None
    """[n, T] nats at rollout; None for a first update (ratio 1)."""
    ref_logps: Tensor | None = None
    """[n, T] nats of the reference; None for no KL in the loss."""
    contrast_logps: Tensor | None = None
    """[n, T] nats at rollout without one modality; None for no contrast."""
    policy_mask: Tensor | None = None
    """[n, T], 1 on the tokens whose surrogate counts (top entropy quantile); None for all."""
    entropy: Tensor | None = None
    """[n, T] nats, with gradient where there is a bonus; None for no bonus and no metric."""


@dataclass(frozen=True)
class MinibatchCounts:
    """Counts of a minibatch over all ranks, so that the shares of its micro-batches add up."""

    num_sequences: float
    """Rows, truncated ones included."""
    num_tokens: Tensor | float
    """Tokens that the loss counts."""
    num_policy_tokens: Tensor | float
    """Tokens whose surrogate counts; as ``num_tokens`` without an entropy mask."""
    num_scored_tokens: Tensor | float
    """Those of ``num_tokens`` that the policy scores: rows without gradient are left out."""
    num_rollout_tokens: Tensor | float
    """Tokens that the loss counts in the batch of rollouts, per minibatch."""
    max_completion_length: int
    """Largest number of tokens of a completion."""
    leaves_rows_out: bool = False
    """Whether some rows have no gradient and are in no micro-batch; they count as not clipped."""


def policy_objective(
    tokens: Tokens,
    counts: MinibatchCounts,
    *,
    loss_type: str,
    epsilon: float,
    epsilon_high: float,
    delta: float | None,
    sapo_temperature_pos: float,
    sapo_temperature_neg: float,
    beta: float,
    kl_estimator: str,
    entropy_coef: float,
    contrast_coef: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute a micro-batch's share of a policy loss.

    L = - aggregate(J) + beta aggregate(KL) - entropy_coef mean(H) - contrast_coef aggregate(C)

    Args:
        tokens: the micro-batch, n rows.
        counts: counts of the minibatch it is a part of.
        loss_type: one of ``LOSS_TYPES``.
        epsilon: lower clip range; not read by cispo and sapo.
        epsilon_high: upper clip range; cispo's bound on the weight itself.
        delta: two-sided clip, or None; not read by cispo and sapo.
        sapo_temperature_pos: sapo's tau where A > 0.
        sapo_temperature_neg: sapo's tau elsewhere.
        beta: weight of the KL; read where ``ref_logps`` is given.
        kl_estimator: "k1", "k2" or "k3".
        entropy_coef: weight of the mean entropy of the policy's tokens, in nats.
        contrast_coef: weight of C, the KL to the policy without one modality; read where
            ``contrast_logps`` is given.

    Returns:
        The share [], and the shares of the metrics, without gradient, under TRL's names. Metrics
        that end in ``_min`` or ``_max`` are the least or greatest value of a row instead.

    Raises:
        ValueError: unknown ``loss_type``.
    """
    surrogate, clips = _surrogate(
        tokens,
        loss_type=loss_type,
        epsilon=epsilon,
        epsilon_high=epsilon_high,
        delta=delta,
        sapo_temperature_pos=sapo_temperature_pos,
        sapo_temperature_neg=sapo_temperature_neg,
    )
    if tokens.policy_mask is not None:
        surrogate = surrogate * tokens.policy_mask
    loss = aggregate(-surrogate, tokens.mask, counts, loss_type=loss_type)
    metrics = {"policy_loss": loss.detach()}
    for name, clipped in clips:
        places = clipped.to(tokens.logps.dtype)
        metrics[name] = _clip_share(places, tokens.mask, counts, loss_type=loss_type)
        if name in ROW_ENDS:
            ends = _row_shares(places, tokens.mask).aminmax()
            least = ends.min.clamp(max=0) if counts.leaves_rows_out else ends.min
            metrics[ROW_ENDS[name]] = least if ROW_ENDS[name].endswith("_min") else ends.max
    if tokens.ref_logps is not None:
        log_ratio = masked(tokens.ref_logps - tokens.logps, tokens.mask)
        divergence = kl.ESTIMATORS[kl_estimator](-log_ratio, torch.zeros_like(log_ratio))
        loss = loss + beta * aggregate(divergence, tokens.mask, counts, loss_type=loss_type)
        metrics["kl"] = _token_share(divergence, tokens.mask, counts.num_scored_tokens)
    if tokens.contrast_logps is not None:
        contrast = modality_contrast(tokens.logps, tokens.contrast_logps, tokens.mask)
        loss = loss - contrast_coef * aggregate(contrast, tokens.mask, counts, loss_type=loss_type)
        metrics["modality/contrast_kl"] = _token_share(
            contrast, tokens.mask, counts.num_scored_tokens
        )
    if tokens.entropy is not None:
        if entropy_coef:
            mask = tokens.mask if tokens.policy_mask is None else tokens.mask * tokens.policy_mask
            bonus = (tokens.entropy * mask).sum() / at_least_one(counts.num_policy_tokens)
            loss = loss - entropy_coef * bonus
        metrics["entropy"] = _token_share(tokens.entropy, tokens.mask, counts.num_scored_tokens)
    return loss, {"loss": loss.detach(), **metrics}


def aggregate(
    per_token: Tensor, mask: Tensor, counts: MinibatchCounts, *, loss_type: str
) -> Tensor:
    """Sum per-token values, divided by the normaliser of a loss type.

    Args:
        per_token: [n, T], or [n, 1] for one value per sequence.
        mask: [n, T].
        counts: counts of the minibatch.
        loss_type: one of ``LOSS_TYPES``.

    Returns:
        [] this micro-batch's share.
    """
    if loss_type in ROW_MEAN:
        return losses.sequence_mean(per_token, mask, num_sequences=counts.num_sequences)
    if loss_type == "bnpo":
        return (per_token * mask).sum() / at_least_one(counts.num_tokens)
    if loss_type == "dr_grpo":
        return (per_token * mask).sum() / (counts.num_sequences * counts.max_completion_length)
    return (per_token * mask).sum() / at_least_one(counts.num_rollout_tokens)  # dapo, cispo


def modality_contrast(logps: Tensor, contrast_logps: Tensor, mask: Tensor) -> Tensor:
    """Estimate per token how far the policy is from itself without one modality.

    C_t = min(k3(pi, pi without the modality), 10)

    Args:
        logps: [n, T] log pi with gradient, in nats.
        contrast_logps: [n, T] nats, without gradient.
        mask: [n, T].

    Returns:
        [n, T], 0 or more; the loss maximises it.

    Reference:
        PAPO eq. 4-5, arXiv 2507.06448.

    Note:
        In the paper the policy without the modality has a gradient too, and an entropy loss on both
        prevents collapse. Here its log-probs are computed once at rollout, and the bound of 10 ends
        the gradient where the estimate has become large.
    """
    log_ratio = masked(logps - contrast_logps, mask)
    return kl.k3(log_ratio, torch.zeros_like(log_ratio)).clamp(max=10.0)


def top_entropy_mask(
    entropy: Tensor, mask: Tensor, *, quantile: float, counted: Tensor | None
) -> Tensor:
    """Mark the tokens of highest entropy, at which completions diverge.

    keep_t = H_t >= the (1 - quantile)-quantile of H over all tokens

    Args:
        entropy: [N, T] nats.
        mask: [N, T].
        quantile: share of tokens to keep, in (0, 1].
        counted: [n] entropies of the global batch under its mask; None to take those of these rows.

    Returns:
        [N, T] int64, 0 where ``mask`` is.

    Reference:
        "Beyond the 80/20 Rule", arXiv 2506.01939.
    """
    counted = (entropy[mask.bool()] if counted is None else counted).float()
    if len(counted) == 0:
        return torch.zeros_like(mask)
    rank = (1 - quantile) * (len(counted) - 1)  # torch.quantile refuses more than 16 M values
    ordered = counted.sort().values
    low, high = ordered[int(rank)], ordered[min(int(rank) + 1, len(counted) - 1)]
    threshold = low + (high - low) * (rank - int(rank))
    return ((entropy >= threshold) & mask.bool()).long()


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Zero the values outside the mask, so that none of them can overflow in an exponential."""
    return torch.where(mask.bool(), values, torch.zeros_like(values))


def at_least_one(count: Tensor | float) -> Tensor | float:
    """Keep a divisor from 0: a batch without tokens has loss 0, and not NaN."""
    return count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)


def _surrogate(
    tokens: Tokens,
    *,
    loss_type: str,
    epsilon: float,
    epsilon_high: float,
    delta: float | None,
    sapo_temperature_pos: float,
    sapo_temperature_neg: float,
) -> tuple[Tensor, list[tuple[str, Tensor]]]:
    """Return the objective to maximise ([n, T]; [n, 1] for gspo) and where it was clipped."""
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type={loss_type!r} is none of {', '.join(LOSS_TYPES)}")
    logps, a = tokens.logps, tokens.advantages
    old = logps.detach() if tokens.old_logps is None else tokens.old_logps
    log_ratio = masked(logps - old, tokens.mask)
    if loss_type == "cispo":
        value, clipped = losses.cispo_surrogate(logps, log_ratio, a, epsilon_high=epsilon_high)
        return value, [("cispo_clip_ratio", clipped)]
    if loss_type == "sapo":
        value = losses.soft_gate(
            log_ratio,
            a,
            temperature_pos=sapo_temperature_pos,
            temperature_neg=sapo_temperature_neg,
        )
        return value, []
    if loss_type == "gspo":
        log_ratio = losses.sequence_log_ratio(log_ratio, tokens.mask)
    value, low, high = losses.clipped_surrogate(
        log_ratio, a, epsilon=epsilon, epsilon_high=epsilon_high, delta=delta
    )
    names = (*ROW_ENDS, "clip_ratio/region_mean")
    return value, list(zip(names, (low, high, low | high), strict=True))


def _clip_share(
    clipped: Tensor, mask: Tensor, counts: MinibatchCounts, *, loss_type: str
) -> Tensor:
    """Return the share of clipped tokens; of clipped sequences where each has one ratio (gspo)."""
    if loss_type == "gspo":
        return clipped.sum() / counts.num_sequences
    return _token_share(clipped, mask, counts.num_tokens)


def _row_shares(places: Tensor, mask: Tensor) -> Tensor:
    """Return the share of clipped tokens of each row that has any: [m], or [1] zero if none has."""
    size = mask.sum(dim=1)
    if places.shape[1] > 1:
        places = (places * mask).sum(dim=1, keepdim=True) / size.clamp(min=1).unsqueeze(1)
    shares = places.squeeze(1)[size > 0]
    return shares if len(shares) else shares.new_zeros(1)


def _token_share(values: Tensor, mask: Tensor, num_tokens: Tensor | float) -> Tensor:
    return (values * mask).sum().detach() / at_least_one(num_tokens)
