"""Rolls out with transformers' plain ``generate``: the yardstick that ``decode`` is held to.

Every completion has its own copy of its prompt, and every row is decoded to the end. Sampling is
that of ``decode``, from the same random numbers, so both give the same completions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from omni_rlvr.functional.masks import position_ids
from omni_rlvr.models.policy import Policy
from omni_rlvr.rollout.next_token import Generators, are_finite, next_tokens, penalise, uniforms
from omni_rlvr.rollout.shared_prefix import to_rollout
from omni_rlvr.types import Prompts, Rollout, UserError


@torch.no_grad()
def generate(
    policy: Policy,
    prompts: Prompts,
    *,
    num_generations: int,
    temperature: float,
    top_p: float,
    top_k: int,
    repetition_penalty: float,
    max_completion_length: int,
    generator: Generators,
    on_tokens: Callable[[Tensor, Tensor], None] | None = None,
    keep_activations: bool = False,
) -> Rollout:
    """Samples G completions for each of B prompts; see ``decode`` for the arguments.

    ``generate`` shows nothing of what its layers compute: none is kept, ``keep_activations`` or
    not.

    Raises:
        UserError: the prompts' positions do not count their tokens, as ``generate`` does.
    """
    if not torch.equal(prompts.positions, position_ids(prompts.mask)):
        raise UserError(
            "rollout=hf counts tokens, and this model's prompts have other positions; "
            "rollout=shared_prefix takes them"
        )
    num_rows, device = len(prompts) * num_generations, prompts.embeds.device
    everything = torch.arange(num_rows, device=device)
    stops = torch.tensor(policy.processor.stop_ids, device=device)
    ended = torch.zeros_like(everything).bool()
    finite = ~ended

    def choose(so_far: Tensor, logits: Tensor) -> Tensor:
        """Leaves only the drawn token, so that generate's argmax takes it."""
        nonlocal ended, finite
        finite = finite & are_finite(logits)
        uniform = uniforms(generator, num_rows)
        if repetition_penalty != 1:
            logits = penalise(logits, so_far, repetition_penalty)
        tokens = next_tokens(
            logits, uniform.to(logits.device), temperature=temperature, top_p=top_p, top_k=top_k
        )
        if on_tokens is not None:
            on_tokens(everything[~ended], tokens[~ended])
        ended = ended | torch.isin(tokens, stops)
        only = torch.full_like(logits, float("-inf"))
        return only.scatter(1, tokens.unsqueeze(1), 0.0)

    language_model: Any = policy.language_model
    ids = language_model.generate(
        inputs_embeds=prompts.embeds.repeat_interleave(num_generations, dim=0),
        attention_mask=prompts.mask.repeat_interleave(num_generations, dim=0),
        logits_processor=[choose],
        do_sample=False,
        max_new_tokens=max_completion_length,
        repetition_penalty=1.0,  # ours is in choose
        pad_token_id=policy.processor.tokenizer.pad_token_id,
        eos_token_id=policy.processor.stop_ids,
    )
    return to_rollout(policy, ids, finite)
