"""Decoding that takes its time, so that a test can look at, or stop, what is not yet whole."""

from __future__ import annotations

import time

from torch import Tensor

from omni_rlvr.rollout.shared_prefix import SharedPrefix
from omni_rlvr.types import Rollout

STEP_S = 0.02


class Slow(SharedPrefix):
    """Decodes as usual, with a pause after every token that somebody is told."""

    def sample(self, policy, prompts, sampling, generator, on_tokens) -> Rollout:
        def pause(rows: Tensor, tokens: Tensor) -> None:
            time.sleep(STEP_S)
            on_tokens(rows, tokens)

        told = None if on_tokens is None else pause
        return super().sample(policy, prompts, sampling, generator, told)
