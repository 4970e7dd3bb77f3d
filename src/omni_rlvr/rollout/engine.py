"""The protocol of rollout engines, which sample completions in training and in every other task.

An engine gets the policy and all settings as arguments, so that one engine serves any number of
policies. It only decodes; ``text/parse`` and the rewards interpret the completions.
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
"""Called after each step with the rows that had not ended, [n], and their new tokens, [n]."""


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
            sampling: How many completions, and how they are sampled.
            generator: Source of the random numbers, on the CPU; or one per prompt.
            on_tokens: Called with the new tokens of each step, or None.

        Returns:
            N = B*G completions, row ``b*G + g``, with their log-probs.
        """

    def sync(self, policy: Policy) -> None:
        """Copy a policy's weights after an update; do nothing if the engine shares them."""


def require_finite(rollout: Rollout, examples: Sequence[Example]) -> None:
    """Refuse completions that were sampled from NaN or infinite logits.

    Args:
        rollout: One completion per prompt.
        examples: The prompts' examples.

    Raises:
        UserError: There are such completions; the message names the first clip.
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
    """Compute the mask of completions, padded after their end token, and decode them.

    Args:
        policy: Its processor knows the end tokens.
        ids: [N, T].
        per_token_logps: [N, T] float32; values beyond the end token are ignored.
        finite: [N] bool: whether all logits of a row were finite.
        activations: Activations that were kept for the update, or None.
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
