"""Decoding that takes its time, so that a test can look at, or stop, what is not yet whole."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from omni_rlvr.models.policy import Policy
from omni_rlvr.rollout.shared_prefix import decode
from omni_rlvr.types import Prompts, Rollout

STEP_S = 0.02


def decode_slowly(
    policy: Policy,
    prompts: Prompts,
    *,
    on_tokens: Callable[[Tensor, Tensor], None],
    **settings: Any,
) -> Rollout:
    """Decodes as usual, with a pause after every token."""

    def pause(rows: Tensor, tokens: Tensor) -> None:
        time.sleep(STEP_S)
        on_tokens(rows, tokens)

    return decode(policy, prompts, on_tokens=pause, **settings)
