"""Log-probabilities of given tokens, and the entropy of the distribution they came from.

``token_scores`` computes them from hidden states, some tokens at a time, so that the logits of all
tokens never exist at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class TokenScores(NamedTuple):
    """What a policy says of given tokens; each of one shape."""

    logps: Tensor
    """float32, log pi of the token in nats."""
    entropy: Tensor
    """float32, of the distribution that the token came from, in nats."""
    is_top: Tensor
    """bool, whether the token is the most probable one."""


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


def token_scores(
    hidden: Tensor,
    ids: Tensor,
    head: Callable[[Tensor], Tensor],
    *,
    temperature: float,
    entropy_gradient: bool,
    chunk_size: int,
) -> TokenScores:
    """Scores tokens from the hidden states that predict them, ``chunk_size`` tokens at a time.

    Backward computes the logits of a chunk once more, so that no more than one chunk's are held.

    Args:
        hidden: [M, hidden].
        ids: [M] int64.
        head: maps hidden states to logits [.., V].
        temperature: tau > 0, the one the tokens were sampled with.
        entropy_gradient: whether the entropy has a gradient, as a bonus needs.
        chunk_size: tokens whose logits exist at once.

    Returns:
        [M] each.
    """

    def chunk(hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scaled = head(hidden).float() / temperature
        total = scaled.logsumexp(dim=-1)
        logps = scaled.gather(-1, ids.unsqueeze(-1)).squeeze(-1) - total
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
            entropy = total - ((scaled - total.unsqueeze(-1)).exp() * scaled).sum(dim=-1)
        is_top = scaled.argmax(dim=-1) == ids
        return logps, entropy, is_top

    if len(ids) <= chunk_size:
        return TokenScores(*chunk(hidden, ids))
    pieces = zip(hidden.split(chunk_size), ids.split(chunk_size), strict=True)
    chunks = [checkpoint(chunk, *piece, use_reentrant=False) for piece in pieces]
    return TokenScores(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))
