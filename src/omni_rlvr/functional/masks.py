"""Masks over completion tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def completion_mask(completion_ids: Tensor, *, eos_token_ids: Sequence[int]) -> Tensor:
    """Mark the tokens of each completion up to and including its first end token.

    Args:
        completion_ids: [N, T] int64.
        eos_token_ids: the end tokens; any of them ends a completion.

    Returns:
        [N, T] int64; a row without an end token is all ones.
    """
    is_eos = torch.isin(completion_ids, completion_ids.new_tensor(eos_token_ids))
    ended_before = is_eos.cumsum(dim=1) - is_eos.long()
    return (ended_before == 0).long()


def position_ids(mask: Tensor) -> Tensor:
    """Count each row's tokens from 0: [N, L] mask -> [N, L] positions (0 on left padding)."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def lengths(mask: Tensor) -> Tensor:
    """Count the tokens of each row: [N, T] -> [N] float32."""
    return mask.sum(dim=1).to(torch.float32)
