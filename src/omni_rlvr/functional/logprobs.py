"""Log-probabilities of given tokens, and the entropy of the distribution they came from."""

from __future__ import annotations

from torch import Tensor


def per_token_logps(logits: Tensor, completion_ids: Tensor, *, temperature: float) -> Tensor:
    """Computes log pi of each completion token.

    log pi(o_t) = z_t[o_t] / tau - logsumexp(z_t / tau)

    Args:
        logits: [N, T, V]; position t predicts token t.
        completion_ids: [N, T] int64.
        temperature: tau > 0, the one the tokens were sampled with.

    Returns:
        [N, T] float32, in nats.
    """
    scaled = logits.float() / temperature
    chosen = scaled.gather(-1, completion_ids.unsqueeze(-1)).squeeze(-1)
    return chosen - scaled.logsumexp(dim=-1)


def per_token_entropy(logits: Tensor, *, temperature: float) -> Tensor:
    """Computes the entropy of each next-token distribution.

    H_t = - sum_v p_v log p_v

    Args:
        logits: [N, T, V].
        temperature: tau > 0.

    Returns:
        [N, T] float32, in nats.
    """
    log_p = (logits.float() / temperature).log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)
