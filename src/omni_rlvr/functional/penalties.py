"""Penalties on next-token logits."""

from __future__ import annotations

from torch import Tensor


def repetition_penalty(logits: Tensor, ids: Tensor, mask: Tensor, *, penalty: float) -> Tensor:
    """Makes tokens that a row holds already less likely.

    z_v -> z_v / penalty if z_v > 0, else z_v * penalty, for every token v of the row

    Args:
        logits: [N, V].
        ids: [N, T] int64, the tokens generated so far.
        mask: [N, T], 1 where ``ids`` counts.
        penalty: greater than 0; 1 changes nothing.

    Returns:
        [N, V].

    Reference:
        CTRL sec. 4.1, arXiv 1909.05858.
    """
    seen = logits.new_zeros(logits.shape).scatter_add_(1, ids, mask.to(logits.dtype)) > 0
    return logits.where(~seen, (logits / penalty).where(logits > 0, logits * penalty))
