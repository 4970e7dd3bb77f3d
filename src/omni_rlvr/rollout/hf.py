"""Sample with transformers' plain ``generate``: the baseline that ``shared_prefix`` must equal.

Every completion has its own copy of its prompt, and every row is decoded to the end. Sampling is
that of ``shared_prefix``, from the same random numbers, so both give the same completions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omni_rlvr.config.sampling import SamplingConfig
from omni_rlvr.functional.masks import position_ids
from omni_rlvr.models.policy import Policy
from omni_rlvr.rollout.engine import OnTokens, to_rollout
from omni_rlvr.rollout.next_token import (
    Generators,
    are_finite,
    draw,
    penalise,
    uniforms,
)
from omni_rlvr.types import Prompts, Rollout, UserError


class Generate:
    """Samples on the policy's own weights with ``generate``.

    It never keeps activations, even if asked to: ``generate`` does not return those of its layers.
    """

    def sync(self, policy: Policy) -> None:
        """Do nothing: the weights are the policy's own."""

    @torch.no_grad()
    def sample(
        self,
        policy: Policy,
        prompts: Prompts,
        sampling: SamplingConfig,
        generator: Generators,
        on_tokens: OnTokens | None,
    ) -> Rollout:
        """Sample G completions for each of B prompts; see ``RolloutEngine``.

        Raises:
            UserError: The prompts' positions are not the token counts that ``generate`` assumes.
        """
        if not torch.equal(prompts.positions, position_ids(prompts.mask)):
            raise UserError(
                "rollout=hf numbers the tokens of a prompt 0, 1, ..., but this model uses other "
                "positions; use rollout=shared_prefix"
            )
        num_rows = len(prompts) * sampling.num_generations
        everything = torch.arange(num_rows, device=prompts.embeds.device)
        stops = torch.tensor(policy.processor.stop_ids, device=prompts.embeds.device)
        ended = torch.zeros_like(everything).bool()
        finite = ~ended
        logps: list[Tensor] = []

        def choose(so_far: Tensor, logits: Tensor) -> Tensor:
            """Draw a token and mask all others, so that generate's argmax takes it."""
            nonlocal ended, finite
            finite = finite & are_finite(logits)
            uniform = uniforms(generator, num_rows).to(logits.device)
            seen = logits
            if sampling.repetition_penalty != 1:
                seen = penalise(logits, so_far, sampling.repetition_penalty)
            tokens, scores = draw(logits, seen, uniform, sampling)
            logps.append(scores)
            if on_tokens is not None:
                on_tokens(everything[~ended], tokens[~ended])
            ended = ended | torch.isin(tokens, stops)
            only = torch.full_like(logits, float("-inf"))
            return only.scatter(1, tokens.unsqueeze(1), 0.0)

        language_model: Any = policy.language_model
        ids = language_model.generate(
            inputs_embeds=prompts.embeds.repeat_interleave(sampling.num_generations, dim=0),
            attention_mask=prompts.mask.repeat_interleave(sampling.num_generations, dim=0),
            logits_processor=[choose],
            do_sample=False,
            max_new_tokens=sampling.max_completion_length,
            repetition_penalty=1.0,  # ``choose`` applies ours
            pad_token_id=policy.processor.tokenizer.pad_token_id,
            eos_token_id=policy.processor.stop_ids,
        )
        return to_rollout(policy, ids, torch.stack(logps, dim=1), finite)
