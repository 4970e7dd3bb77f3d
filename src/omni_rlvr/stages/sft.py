"""Supervised fine-tuning: the loss is the mean negative log-likelihood of the annotated target."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from omni_rlvr.config.stage import SftConfig
from omni_rlvr.functional.losses import sft_loss
from omni_rlvr.models.policy import Policy
from omni_rlvr.rollout.encode import check_room
from omni_rlvr.rollout.experience import (
    by_length,
    completion_scores,
    encode_frozen,
    micro_batches,
)
from omni_rlvr.rollout.next_token import Generators
from omni_rlvr.stages.base import Given, Prepared, share
from omni_rlvr.stages.global_batch import with_counts
from omni_rlvr.types import Batch, Counts, Experience, LossOutput


def build(config: SftConfig, given: Given) -> SftStage:
    """Build the stage, which needs nothing but its config."""
    return SftStage(config)


class SftStage:
    """Supervised fine-tuning on the targets of the annotations.

    Targets with reasoning make it the cold start, targets of labels alone the SFT baseline.
    """

    with_target = True
    reference = None

    def __init__(self, config: SftConfig):
        """Hold the hyper-parameters."""
        self.config = config

    @torch.no_grad()
    def prepare(self, policy: Policy, batch: Batch, generator: Generators) -> Prepared:
        """Run the frozen towers, and take the target of each prompt as its one completion."""
        assert batch.completion_ids is not None  # there, since ``with_target`` is set
        assert batch.completion_mask is not None
        check_room(policy, batch, batch.completion_mask.sum(dim=1), "the length of its target")
        experience = Experience(
            batch=batch,
            features=encode_frozen(policy, batch),
            prompt_index=torch.arange(len(batch), device=batch.prompt_ids.device),
            completion_ids=batch.completion_ids,
            completion_mask=batch.completion_mask,
        )
        return Prepared(experience, experience.features, {}, [], {})

    def minibatches(self, experience: Experience) -> Iterator[Experience]:
        """Yield the whole batch once."""
        yield with_counts(experience, self._counts(experience))

    def micro_batches(self, minibatch: Experience) -> list[Tensor]:
        """Split rows into micro-batches; with a token limit, rows of similar length go together."""
        rows = torch.arange(len(minibatch))
        if self.config.max_tokens_per_micro_batch > 0:
            rows = by_length(minibatch)
        return micro_batches(minibatch, rows.to(minibatch.completion_ids.device), self.config)

    def loss(self, policy: Policy, rows: Experience, minibatch: Experience) -> LossOutput:
        """Compute a micro-batch's share of the token-mean loss and of the top-1 accuracy."""
        scores = completion_scores(
            policy,
            rows,
            temperature=1.0,
            gradient_checkpointing=self.config.gradient_checkpointing,
            entropy_gradient=False,
        )
        mask, counts = rows.completion_mask, minibatch.counts or self._counts(minibatch)
        loss = sft_loss(scores.logps, mask, num_tokens=counts.num_tokens)
        accuracy = share(scores.is_top.float(), mask, counts.num_tokens)
        return LossOutput(loss, {"loss": loss.detach(), "mean_token_accuracy": accuracy})

    def _counts(self, minibatch: Experience) -> Counts:
        num_tokens = float(minibatch.completion_mask.sum())
        return Counts(len(minibatch), num_tokens, num_tokens, num_tokens, num_left_out=0)
