"""Losses over completion tokens, written as sums so that micro-batches add up to the whole.

Each takes the normaliser of the whole minibatch: a micro-batch then contributes its exact share,
and splitting a minibatch never changes the gradient (a mean of means would).
"""

from __future__ import annotations

from torch import Tensor


def sft_loss(logps: Tensor, mask: Tensor, *, num_tokens: Tensor | int) -> Tensor:
    """Computes the token-mean negative log-likelihood's share.

    L = - sum_t log pi(o_t) / num_tokens

    Args:
        logps: [N, T] in nats.
        mask: [N, T], 1 on target tokens.
        num_tokens: target tokens in the whole minibatch.

    Returns:
        [] share of the loss, in nats per token.
    """
    return -(logps * mask).sum() / num_tokens


def clipped_surrogate(
    logps: Tensor, old_logps: Tensor, advantages: Tensor, *, epsilon: float, epsilon_high: float
) -> tuple[Tensor, Tensor]:
    """Computes the clipped policy-gradient objective per token.

    J_t = min(rho_t A, clip(rho_t, 1 - epsilon, 1 + epsilon_high) A), rho_t = exp(logps - old_logps)

    Args:
        logps: [N, T] log pi, in nats.
        old_logps: [N, T] log pi at rollout; pass ``logps.detach()`` for a first update (rho = 1,
            no clipping).
        advantages: [N].
        epsilon: lower clip range.
        epsilon_high: upper clip range.

    Returns:
        The objective to maximise [N, T], and where the clip was active [N, T] bool.

    Reference:
        PPO eq. 7, arXiv 1707.06347; clip-higher: DAPO, arXiv 2503.14476.
    """
    ratio = (logps - old_logps).exp()
    a = advantages.unsqueeze(1)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    is_clipped = ((ratio < 1 - epsilon) & (a < 0)) | ((ratio > 1 + epsilon_high) & (a > 0))
    return (ratio * a).minimum(clipped * a), is_clipped


def sequence_mean(per_token: Tensor, mask: Tensor, *, num_sequences: Tensor | int) -> Tensor:
    """Averages per sequence, then over the minibatch's sequences (GRPO's aggregation).

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
