"""Supervised fine-tuning: the loss is the mean negative log-likelihood of the annotated target."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from omni_rlvr.functional.logprobs import per_token_logps
from omni_rlvr.functional.losses import sft_loss
from omni_rlvr.models.policy import Policy
from omni_rlvr.rollout.experience import completion_logits, encode_frozen
from omni_rlvr.stages.base import Prepared, share
from omni_rlvr.types import Batch, Experience, LossOutput


class SftStage:
    """Cold start, or the label-only baseline, by what the targets are."""

    with_target = True

    @torch.no_grad()
    def prepare(self, policy: Policy, batch: Batch, generator: torch.Generator) -> Prepared:
        """Runs the frozen towers; the targets are the completions, one a prompt."""
        assert batch.completion_ids is not None  # collated, since ``with_target`` is set
        assert batch.completion_mask is not None
        experience = Experience(
            batch=batch,
            features=encode_frozen(policy, batch),
            prompt_index=torch.arange(len(batch), device=batch.prompt_ids.device),
            completion_ids=batch.completion_ids,
            completion_mask=batch.completion_mask,
        )
        return Prepared(experience, {}, [])

    def minibatches(self, experience: Experience) -> Iterator[Experience]:
        """Yields the whole batch once."""
        yield experience

    def loss(self, policy: Policy, rows: Experience, whole: Experience) -> LossOutput:
        """Computes the token-mean loss's share, and the share of target tokens ranked first."""
        logits = completion_logits(policy, rows)
        logps = per_token_logps(logits, rows.completion_ids, temperature=1.0)
        loss = sft_loss(logps, rows.completion_mask, num_tokens=whole.completion_mask.sum())
        hits = (logits.argmax(dim=-1) == rows.completion_ids).float()
        accuracy = share(hits, rows.completion_mask, whole.completion_mask)
        return LossOutput(loss, {"loss": loss.detach(), "mean_token_accuracy": accuracy})
