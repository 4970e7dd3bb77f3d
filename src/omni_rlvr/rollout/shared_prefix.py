"""Sample G completions per prompt, which is prefilled once; they share its keys and values.

One loop serves sampling in RLVR and greedy evaluation. Rows that have ended are removed once they
are a quarter of the batch; since each row has its own random numbers, this changes no completion.
"""

from __future__ import annotations

import torch

from omni_rlvr.config.sampling import SamplingConfig
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.prefix.decoding import make_decoder
from omni_rlvr.rollout.engine import OnTokens, to_rollout
from omni_rlvr.rollout.next_token import (
    Generators,
    are_finite,
    draw,
    penalise,
    uniforms,
)
from omni_rlvr.types import Prompts, Rollout


class SharedPrefix:
    """Samples on the policy's own weights, with each prompt's keys and values stored once."""

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
        """Sample G completions for each of B prompts; see ``RolloutEngine``."""
        max_length = sampling.max_completion_length
        decoder = make_decoder(
            policy.language_model,
            prompts,
            num_generations=sampling.num_generations,
            max_completion_length=max_length,
            keep_activations=sampling.keep_activations,
        )
        pad, device = policy.processor.tokenizer.pad_token_id, prompts.embeds.device
        logits = decoder.prefill()
        num_rows = len(logits)
        ids = torch.full((num_rows, max_length), pad, device=device)
        logps = torch.zeros(num_rows, max_length, device=device)
        stops = torch.tensor(policy.processor.stop_ids, device=device)
        rows = torch.arange(num_rows, device=device)  # indices of the rows still in the batch
        alive = torch.ones_like(rows, dtype=torch.bool)  # which of these rows have not ended
        finite = torch.ones_like(alive)
        for t in range(max_length):
            uniform = uniforms(generator, num_rows)
            if sampling.temperature > 0:  # greedy reads none, and not every device has float64
                uniform = uniform.to(device)[rows]
            finite[rows] &= are_finite(logits)
            seen = logits
            if sampling.repetition_penalty != 1:
                seen = penalise(logits, ids[rows, :t], sampling.repetition_penalty)
            tokens, logps[rows, t] = draw(logits, seen, uniform, sampling)
            ids[rows, t] = torch.where(alive, tokens, pad)
            if on_tokens is not None:
                on_tokens(rows[alive], tokens[alive])
            alive = alive & (tokens.unsqueeze(1) != stops).all(dim=1)
            num_alive = int(alive.sum())
            if t + 1 == max_length or num_alive == 0:
                break
            if num_alive <= 0.75 * len(rows):
                keep = alive.nonzero().squeeze(1)
                decoder.keep(keep)
                rows, tokens, alive = rows[keep], tokens[keep], alive[keep]
            logits = decoder.step(tokens)
        return to_rollout(policy, ids[:, : t + 1], logps[:, : t + 1], finite, decoder.activations())
