"""The protocol of what samples completions; training and every other task take the configured one.

An engine is told all by its arguments, so that one serves any number of policies. What an engine
decodes, ``text/parse`` and the rewards read; it judges nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from omni_rlvr.config.sampling import SamplingConfig
from omni_rlvr.functional.masks import completion_mask
from omni_rlvr.models.policy import Policy
from omni_rlvr.rollout.next_token import Generators
from omni_rlvr.types import Example, Prompts, Rollout, UserError

OnTokens = Callable[[Tensor, Tensor], None]
"""Told after each step which rows ([n]) that had not ended got which tokens ([n])."""


class RolloutEngine(Protocol):
    """Samples completions."""

    def sample(
        self,
        policy: Policy,
        prompts: Prompts,
        sampling: SamplingConfig,
        generator: Generators,
        on_tokens: OnTokens | None,
    ) -> Rollout:
        """Sample G completions for each of B prompts.

        Args:
            policy: The model.
            prompts: B prompts, as the policy made them.
            sampling: How many, and how.
            generator: Source of the random numbers, on the CPU; or one a prompt.
            on_tokens: Told each token as it comes.

        Returns:
            N = B*G completions, row ``b*G + g``, with their log-probs.
        """

    def sync(self, policy: Policy) -> None:
        """Take over a policy's weights after an update; nothing where they are shared."""


def require_finite(rollout: Rollout, examples: Sequence[Example]) -> None:
    """Refuse completions that were read from logits that are no numbers.

    Args:
        rollout: One completion a prompt.
        examples: The prompts' examples.

    Raises:
        UserError: It names the first clip.
    """
    wrong = (~rollout.finite).nonzero().flatten().tolist()
    if wrong:
        raise UserError(
            f"{examples[wrong[0]].id}: the model's logits are NaN or infinite for this clip (and "
            f"{len(wrong) - 1} more of its batch of {len(examples)}), so that it has no answer; "
            "half precision may overflow: try model.dtype=float32, or take another checkpoint"
        )


def to_rollout(
    policy: Policy,
    ids: Tensor,
    per_token_logps: Tensor,
    finite: Tensor,
    activations: object | None = None,
) -> Rollout:
    """Mark and decode completions [N, T], padded after their end token.

    Args:
        policy: Its processor says what ends a completion.
        ids: [N, T].
        per_token_logps: [N, T] float32; anything beyond the end token.
        finite: [N] bool.
        activations: What was kept for the update.
    """
    processor = policy.processor
    mask = completion_mask(ids, eos_token_ids=processor.counted_stop_ids)
    return Rollout(
        completion_ids=ids,
        completion_mask=mask,
        per_token_logps=per_token_logps.masked_fill(mask == 0, 0.0),
        texts=processor.decode(ids, mask),
        truncated=~torch.isin(ids, ids.new_tensor(processor.stop_ids)).any(dim=1),
        finite=finite,
        activations=activations,
    )
