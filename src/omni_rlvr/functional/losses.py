"""Losses over completion tokens, written as sums so that micro-batches add up to the whole.

Each takes the normaliser of the whole minibatch: a micro-batch then contributes its exact share,
and splitting a minibatch never changes the gradient (a mean of means would). ``objective`` says
which of them each ``loss_type`` uses.
"""

from __future__ import annotations

from torch import Tensor


def sft_loss(logps: Tensor, mask: Tensor, *, num_tokens: Tensor | float) -> Tensor:
    """Compute a micro-batch's share of the token-mean negative log-likelihood.

    L = - sum_t log pi(o_t) / num_tokens

    Args:
        logps: [N, T] in nats.
        mask: [N, T], 1 on target tokens.
        num_tokens: target tokens in the whole minibatch.

    Returns:
        [] share of the loss, in nats per token.
    """
    return -(logps * mask).sum() / num_tokens


def sequence_log_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Average a log-ratio over each sequence.

    log s_i = 1/|o_i| sum_t (log pi(o_t) - log pi_old(o_t))

    Args:
        log_ratio: [N, T] in nats.
        mask: [N, T].

    Returns:
        [N, 1] in nats; 0 for a row without tokens.

    Reference:
        GSPO eq. 7, arXiv 2507.18071.
    """
    return (log_ratio * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def clipped_surrogate(
    log_ratio: Tensor,
    advantages: Tensor,
    *,
    epsilon: float,
    epsilon_high: float,
    delta: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the clipped policy-gradient objective.

    J = min(min(rho, delta) A, clip(rho, 1 - epsilon, 1 + epsilon_high) A), rho = exp(log_ratio)

    Args:
        log_ratio: [N, T] (or [N, 1] for a sequence's ratio), log pi - log pi_old in nats; pass
            ``logps - logps.detach()`` for a first update (rho = 1, no clipping).
        advantages: [N].
        epsilon: lower clip range.
        epsilon_high: upper clip range.
        delta: bound on the ratio where the advantage is negative, above 1 + epsilon_high (two-sided
            clipping); None for none.

    Returns:
        The objective to maximise, and where it was clipped from below and from above (bool), all
        shaped as ``log_ratio``.

    Reference:
        PPO eq. 7, arXiv 1707.06347; clip-higher: DAPO, arXiv 2503.14476; delta: INTELLECT-2,
        arXiv 2505.07291.
    """
    ratio, a = log_ratio.exp(), advantages.unsqueeze(1)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    is_low, is_high = (ratio < 1 - epsilon) & (a < 0), (ratio > 1 + epsilon_high) & (a > 0)
    bounded = ratio if delta is None else ratio.clamp(max=delta)
    return (bounded * a).minimum(clipped * a), is_low, is_high


def cispo_surrogate(
    logps: Tensor, log_ratio: Tensor, advantages: Tensor, *, epsilon_high: float
) -> tuple[Tensor, Tensor]:
    """Compute CISPO's objective: every token keeps its gradient; only its weight is clipped.

    J_t = stop_gradient(min(rho_t, epsilon_high)) A log pi(o_t)

    Args:
        logps: [N, T] log pi, in nats.
        log_ratio: [N, T] log pi - log pi_old, in nats.
        advantages: [N].
        epsilon_high: the upper bound of the weight itself (not 1 + epsilon_high), as in TRL.

    Returns:
        The objective to maximise [N, T], and where a weight was clipped at A > 0 [N, T] bool.

    Reference:
        MiniMax-M1 eq. 4, arXiv 2506.13585.
    """
    ratio, a = log_ratio.exp(), advantages.unsqueeze(1)
    weights = ratio.clamp(max=epsilon_high).detach()
    return weights * a * logps, (ratio > epsilon_high) & (a > 0)


def soft_gate(
    log_ratio: Tensor, advantages: Tensor, *, temperature_pos: float, temperature_neg: float
) -> Tensor:
    """Compute SAPO's objective: a sigmoid of the ratio in place of a clip.

    J_t = 4/tau sigmoid(tau (rho_t - 1)) A, tau = temperature_pos if A > 0 else temperature_neg

    Args:
        log_ratio: [N, T] log pi - log pi_old, in nats.
        advantages: [N].
        temperature_pos: tau > 0 of rows with A > 0.
        temperature_neg: tau > 0 of the others; larger lets their gradients fade faster.

    Returns:
        [N, T], the objective to maximise; its gradient at rho = 1 is the plain policy gradient.

    Reference:
        SAPO eq. 5-6, arXiv 2511.20347.
    """
    a = advantages.unsqueeze(1)
    tau = (a > 0) * temperature_pos + (a <= 0) * temperature_neg
    return (tau * (log_ratio.exp() - 1)).sigmoid() * 4 / tau * a


def sequence_mean(per_token: Tensor, mask: Tensor, *, num_sequences: Tensor | float) -> Tensor:
    """Average per sequence, then over the minibatch's sequences (GRPO's aggregation).

    L = 1/N sum_i 1/|o_i| sum_t l_it

    Args:
        per_token: [n, T] values of this micro-batch.
        mask: [n, T].
        num_sequences: N, rows of the whole minibatch.

    Returns:
        [] this micro-batch's share.

    Reference:
        GRPO, DeepSeekMath eq. 3, arXiv 2402.03300.
    """
    return ((per_token * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum() / num_sequences
