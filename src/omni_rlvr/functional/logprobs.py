"""Log-probabilities of given tokens, and the entropy of the distribution they came from.

``token_scores`` computes them from hidden states, some tokens at a time, so that the logits of all
tokens never exist at once. All is computed in float32, without loss of digits where a model is
nearly certain of a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


class TokenScores(NamedTuple):
    """A policy's scores of given tokens; all fields have the same shape."""

    logps: Tensor
    """float32, log pi of the token in nats."""
    entropy: Tensor
    """float32, of the distribution that the token came from, in nats."""
    is_top: Tensor
    """bool, whether the token is the most probable one."""


def per_token_logps(logits: Tensor, completion_ids: Tensor, *, temperature: float) -> Tensor:
    """Compute log pi of each completion token.

    log pi(o_t) = z_t[o_t] / tau - logsumexp(z_t / tau)

    Args:
        logits: [N, T, V]; position t predicts token t.
        completion_ids: [N, T] int64.
        temperature: tau > 0, the one the tokens were sampled with.

    Returns:
        [N, T] float32, in nats.
    """
    return _Scores.apply(logits.float() / temperature, completion_ids, False)[0]


def per_token_entropy(logits: Tensor, *, temperature: float) -> Tensor:
    """Compute the entropy of each next-token distribution.

    H_t = - sum_v p_v log p_v

    Args:
        logits: [N, T, V].
        temperature: tau > 0.

    Returns:
        [N, T] float32, in nats.
    """
    scaled = logits.float() / temperature
    return _Scores.apply(scaled, scaled.argmax(dim=-1), True)[1]


def token_scores(
    hidden: Tensor,
    ids: Tensor,
    head: Callable[[Tensor], Tensor],
    *,
    temperature: float,
    entropy_gradient: bool,
    chunk_size: int,
) -> TokenScores:
    """Score tokens from the hidden states that predict them, ``chunk_size`` tokens at a time.

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
        return _Scores.apply(head(hidden).float() / temperature, ids, entropy_gradient)

    if len(ids) <= chunk_size:
        return TokenScores(*chunk(hidden, ids))
    pieces = zip(hidden.split(chunk_size), ids.split(chunk_size), strict=True)
    chunks = [checkpoint(chunk, *piece, use_reentrant=False) for piece in pieces]
    return TokenScores(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))


class _Scores(torch.autograd.Function):
    """Log-probability and entropy of tokens, and whether each is the top one, without cancellation.

    With a the most probable token, d_v = z_a - z_v >= 0 and R = sum of exp(-d_v) over v != a:

        log p_v = -d_v - log1p(R)
        H = log1p(R) + S,   S = sum_v exp(-d_v) d_v / (1 + R)

    If a model is confident, a sum over all tokens would lose R beside the 1 of token a; here all
    terms are of one sign. Gradients likewise:

        d log p_o / d z_v = [v = o] - p_v,   which for v = o = a is R / (1 + R)
        d H / d z_v = p_v (d_v - S)
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, ids: Tensor, entropy_gradient: bool):
        """Compute logps, entropy and whether ids are top from [.., V] float32 and [..] int64."""
        top, place = z.max(dim=-1, keepdim=True)
        distance = top - z
        # token a is left out of the sums; exp_ overwrites the temporary -distance
        others = distance.neg().exp_().scatter_(-1, place, 0.0)
        rest = others.sum(dim=-1, keepdim=True)
        log_total = rest.log1p()
        slope = torch.linalg.vecdot(others, distance).unsqueeze(-1) / (1 + rest)
        chosen = distance.gather(-1, ids.unsqueeze(-1))
        logps = (-chosen - log_total).squeeze(-1)
        entropy = (log_total + slope).squeeze(-1)
        is_top = place.squeeze(-1) == ids
        ctx.save_for_backward(
            others, rest, place, ids, *([distance, slope] if entropy_gradient else [])
        )
        ctx.mark_non_differentiable(is_top, *([] if entropy_gradient else [entropy]))
        return logps, entropy, is_top

    @staticmethod
    def backward(ctx: Any, grad_logps: Tensor, grad_entropy: Tensor, _: Tensor):
        others, rest, place, ids, *of_entropy = ctx.saved_tensors
        g, ids, total = grad_logps.unsqueeze(-1), ids.unsqueeze(-1), 1 + rest
        is_top = ids == place
        grad = others * (-g / total)
        grad.scatter_(-1, place, torch.where(is_top, g * rest, -g) / total)
        grad.scatter_add_(-1, ids, torch.where(is_top, 0.0, g))
        if of_entropy:
            distance, slope = of_entropy
            h = grad_entropy.unsqueeze(-1) / total
            grad.addcmul_(others * h, distance - slope)
            grad.scatter_add_(-1, place, -slope * h)
        return grad, None, None
