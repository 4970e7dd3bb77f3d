"""What every model family offers to the rollout, the stages and evaluation.

A policy turns a batch into tower features (once a prompt), features into prompt embeddings (with
gradient: projectors train) and embeddings into completion logits. Its ``language_model`` is a
transformers causal LM, so that rollout and update can share a prompt's keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from omni_rlvr.models.adapters.adapter_checkpoint import Delta
from omni_rlvr.models.composed.processor import Processor
from omni_rlvr.models.modules import Modules
from omni_rlvr.types import Batch, Features


class Policy(Modules, Protocol):
    """A video + audio language model and its processor."""

    processor: Processor
    language_model: PreTrainedModel
    config: PreTrainedConfig
    delta: Delta | None
    """Set where checkpoints hold a difference to a base: a policy with adapters."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights, frozen ones too."""

    def train(self, mode: bool = True) -> Policy:
        """Switches dropout and the like; frozen parts stay in eval mode."""

    def eval(self) -> Policy:
        """Switches to eval mode."""

    def to(self, *, device: torch.device) -> Policy:
        """Moves all weights."""

    def towers(self) -> Mapping[str, nn.Module]:
        """The "video" and the "audio" tower."""

    def encode(self, batch: Batch) -> Features:
        """Run the towers once on every clip of the batch that was read: a tensor a clip."""

    def embed(self, batch: Batch, features: Features) -> Tensor:
        """Projects features into the prompt's embeddings: [B, P, hidden]."""

    def positions(self, batch: Batch) -> Tensor:
        """Where the prompts' tokens stand: [B, P], or [3, B, P] in time, height and width.

        A completion goes on from one more than its prompt's largest.
        """

    def completion_logits(
        self,
        prompt_embeds: Tensor,
        prompt_mask: Tensor,
        prompt_index: Tensor,
        completion_ids: Tensor,
        completion_mask: Tensor,
    ) -> Tensor:
        """Computes the logits that predict each completion token: [N, T, V], each prompt once."""

    def frozen_copy(self) -> Policy:
        """Copies what trains, shares what does not, and freezes the copy: the reference policy."""

    def save(self, folder: Path) -> None:
        """Writes a folder that ``load_policy`` reads back."""
