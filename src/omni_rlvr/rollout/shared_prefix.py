"""Rolls out G completions a prompt: it is prefilled once, and its keys and values are shared.

One loop serves sampling in RLVR and greedy evaluation. Rows that have ended leave the batch as soon
as a quarter of the rows still decoded has; since a row's random numbers are its own, that changes
no completion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from omni_rlvr.functional.masks import completion_mask
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.prefix.decoding import make_decoder
from omni_rlvr.rollout.next_token import Generators, are_finite, next_tokens, penalise, uniforms
from omni_rlvr.types import Example, Prompts, Rollout, UserError

RollOut = Callable[..., Rollout]
"""``decode`` here, or ``generate`` beside it."""


@torch.no_grad()
def decode(
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
    """Samples G completions for each of B prompts.

    Args:
        policy: the model; its ``language_model`` is driven one token a step.
        prompts: B prompts, as the policy made them.
        num_generations: G.
        temperature: 0 decodes greedily.
        top_p: nucleus mass, 1 keeps all.
        top_k: 0 keeps all.
        repetition_penalty: above 1 makes tokens that a completion already has less likely; 1 is
            off.
        max_completion_length: most tokens a completion may have, its end token included.
        generator: source of the random numbers, on the CPU; or one a prompt.
        on_tokens: told after each step which rows ([n]) that had not ended got which tokens ([n]).
        keep_activations: whether what the layers compute is kept for the update's forward pass,
            where the model allows it.

    Returns:
        N = B*G completions, row ``b*G + g``.
    """
    decoder = make_decoder(
        policy.language_model,
        prompts,
        num_generations=num_generations,
        max_completion_length=max_completion_length,
        keep_activations=keep_activations,
    )
    tokenizer, device = policy.processor.tokenizer, prompts.embeds.device
    logits = decoder.prefill()
    num_rows = len(logits)
    ids = torch.full((num_rows, max_completion_length), tokenizer.pad_token_id, device=device)
    stops = torch.tensor(policy.processor.stop_ids, device=device)
    rows = torch.arange(num_rows, device=device)  # what is still in the batch
    alive = torch.ones_like(rows, dtype=torch.bool)  # which of these rows have not ended
    finite = torch.ones_like(alive)
    for t in range(max_completion_length):
        uniform = uniforms(generator, num_rows)
        if temperature > 0:  # greedy reads none, and not every device has float64
            uniform = uniform.to(device)[rows]
        finite[rows] &= are_finite(logits)
        if repetition_penalty != 1:
            logits = penalise(logits, ids[rows, :t], repetition_penalty)
        tokens = next_tokens(logits, uniform, temperature=temperature, top_p=top_p, top_k=top_k)
        ids[rows, t] = torch.where(alive, tokens, tokenizer.pad_token_id)
        if on_tokens is not None:
            on_tokens(rows[alive], tokens[alive])
        alive = alive & (tokens.unsqueeze(1) != stops).all(dim=1)
        num_alive = int(alive.sum())
        if t + 1 == max_completion_length or num_alive == 0:
            break
        if num_alive <= 0.75 * len(rows):
            keep = alive.nonzero().squeeze(1)
            decoder.keep(keep)
            rows, tokens, alive = rows[keep], tokens[keep], alive[keep]
        logits = decoder.step(tokens)
    return to_rollout(policy, ids[:, : t + 1], finite, decoder.activations())


def require_finite(rollout: Rollout, examples: Sequence[Example]) -> None:
    """Refuse completions that were read from logits that are no numbers.

    Args:
        rollout: one completion a prompt.
        examples: the prompts' examples.

    Raises:
        UserError: names the first clip.
    """
    wrong = (~rollout.finite).nonzero().flatten().tolist()
    if wrong:
        raise UserError(
            f"{examples[wrong[0]].id}: the model's logits are NaN or infinite for this clip (and "
            f"{len(wrong) - 1} more of its batch of {len(examples)}), so that it has no answer; "
            "half precision may overflow: try model.dtype=float32, or take another checkpoint"
        )


def to_rollout(
    policy: Policy, ids: Tensor, finite: Tensor, activations: object | None = None
) -> Rollout:
    """Mark and decode completions [N, T], padded after their end token; ``finite`` is [N]."""
    processor = policy.processor
    ends = processor.stop_ids if processor.settings.mask_stops else processor.stop_ids[:1]
    mask = completion_mask(ids, eos_token_ids=ends)
    return Rollout(
        completion_ids=ids,
        completion_mask=mask,
        texts=policy.processor.decode(ids, mask),
        truncated=~torch.isin(ids, ids.new_tensor(processor.stop_ids)).any(dim=1),
        finite=finite,
        activations=activations,
    )
