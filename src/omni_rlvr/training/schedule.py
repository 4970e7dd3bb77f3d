"""The optimizer and its learning rate: linear warm-up, then cosine, linear or constant.

transformers' schedules of these names begin the warm-up at 0, so that the first step changes
nothing, and their cosine rises again after the last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from omni_rlvr.types import UserError


def build_optimizer(make: Callable[..., Optimizer], weights: Sequence[nn.Parameter]) -> Optimizer:
    """Build the optimizer of the config for weights.

    Raises:
        UserError: The optimizer refuses an option.
    """
    try:
        return make(weights)
    except (ValueError, TypeError) as error:
        raise UserError(f"optimizer: {error}") from error


def lr_scale(step: int, *, num_steps: int, warmup_ratio: float, kind: str) -> float:
    """Compute the factor on the peak learning rate.

    Args:
        step: optimiser steps done, from 0.
        num_steps: optimiser steps of the run.
        warmup_ratio: share of the run in which the rate rises linearly; it is above 0 at step 0.
        kind: "cosine", "linear" or "constant".

    Returns:
        A factor in [0, 1].
    """
    warmup = math.ceil(warmup_ratio * num_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    if kind == "constant":
        return 1.0
    return 1.0 - done if kind == "linear" else 0.5 * (1 + math.cos(math.pi * done))


def make_schedule(
    optimizer: Optimizer, *, num_steps: int, warmup_ratio: float, kind: str
) -> LambdaLR:
    """Build the scheduler of ``lr_scale``."""
    return LambdaLR(
        optimizer,
        lambda step: lr_scale(step, num_steps=num_steps, warmup_ratio=warmup_ratio, kind=kind),
    )
