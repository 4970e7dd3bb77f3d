"""Rolls out G completions a prompt: it is prefilled once, its keys and values repeated G times.

One loop serves sampling in RLVR and greedy evaluation. Rows that have ended leave the batch as soon
as a quarter of the rows still decoded has; since a row's random numbers are its own, that changes
no completion.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from omni_rlvr.functional.masks import completion_mask, position_ids
from omni_rlvr.models.policy import Policy
from omni_rlvr.rollout.sampling import next_tokens
from omni_rlvr.types import Rollout


@torch.no_grad()
def decode(
    policy: Policy,
    prompt_embeds: Tensor,
    prompt_mask: Tensor,
    *,
    num_generations: int,
    temperature: float,
    top_p: float,
    top_k: int,
    max_completion_length: int,
    generator: torch.Generator,
    on_tokens: Callable[[Tensor, Tensor], None] | None = None,
) -> Rollout:
    """Samples G completions for each of B prompts.

    Args:
        policy: the model; its ``language_model`` is driven through a transformers cache.
        prompt_embeds: [B, P, hidden].
        prompt_mask: [B, P], left-padded.
        num_generations: G.
        temperature: 0 decodes greedily.
        top_p: nucleus mass, 1 keeps all.
        top_k: 0 keeps all.
        max_completion_length: most tokens a completion may have, its end token included.
        generator: source of the random numbers, on the CPU.
        on_tokens: told after each step which rows ([n]) that had not ended got which tokens ([n]).

    Returns:
        N = B*G completions, row ``b*G + g``.
    """
    tokenizer, device = policy.processor.tokenizer, prompt_embeds.device
    cache = policy.new_cache()
    out = policy.language_model(
        inputs_embeds=prompt_embeds,
        attention_mask=prompt_mask,
        position_ids=position_ids(prompt_mask),
        past_key_values=cache,
        logits_to_keep=1,
    )
    cache.batch_repeat_interleave(num_generations)
    logits = out.logits[:, -1].repeat_interleave(num_generations, dim=0)
    mask = prompt_mask.repeat_interleave(num_generations, dim=0)
    num_rows = len(logits)
    ids = torch.full((num_rows, max_completion_length), tokenizer.pad_token_id, device=device)
    rows = torch.arange(num_rows, device=device)  # what is still in the batch
    alive = torch.ones_like(rows, dtype=torch.bool)  # which of these rows have not ended
    for t in range(max_completion_length):
        uniform = torch.rand(num_rows, generator=generator, dtype=torch.float64)
        if temperature > 0:  # greedy reads none, and not every device has float64
            uniform = uniform.to(device)[rows]
        tokens = next_tokens(logits, uniform, temperature=temperature, top_p=top_p, top_k=top_k)
        ids[rows, t] = torch.where(alive, tokens, tokenizer.pad_token_id)
        if on_tokens is not None:
            on_tokens(rows[alive], tokens[alive])
        alive = alive & (tokens != tokenizer.eos_token_id)
        if t + 1 == max_completion_length or not alive.any():
            break
        if alive.sum() <= 0.75 * len(rows):
            keep = alive.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            rows, tokens, mask, alive = rows[keep], tokens[keep], mask[keep], alive[keep]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        logits = policy.language_model(
            input_ids=tokens.unsqueeze(1),
            attention_mask=mask,
            position_ids=position_ids(mask)[:, -1:],
            past_key_values=cache,
        ).logits[:, -1]
    return _rollout(policy, ids[:, : t + 1])


def _rollout(policy: Policy, ids: Tensor) -> Rollout:
    eos = policy.processor.tokenizer.eos_token_id
    mask = completion_mask(ids, eos_token_id=eos)
    return Rollout(
        completion_ids=ids,
        completion_mask=mask,
        texts=policy.processor.decode(ids, mask),
        truncated=~(ids == eos).any(dim=1),
    )
