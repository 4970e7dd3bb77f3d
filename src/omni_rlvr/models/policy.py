"""What every model family offers to the rollout, the stages and evaluation.

A policy turns a batch into tower features (once a prompt), features into prompt embeddings (with
gradient: projectors train) and embeddings into completion logits. Its ``language_model`` is a
transformers causal LM, so that rollout and update can share a prompt's keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.models.modules import Modules
from omni_rlvr.types import AudioShape, Batch, Features, Processing, Prompts, VideoShape


@dataclass(frozen=True)
class AdapterCheckpoint:
    """What the checkpoints of a policy with adapters hold, and which base they are put onto.

    The base is not copied into them.
    """

    base: Path
    """Folder of the base."""
    fingerprint: str
    """Of the base's content."""
    names: frozenset[str]
    """Weights, apart from adapters, that are or were trained; under their names in the base."""


class Processor(Processing, Protocol):
    """From text and media to what a policy reads, and from token ids back to text.

    It holds no weights and can be pickled, so that data workers process clips.
    """

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The language model's tokenizer."""

    @property
    def instruction(self) -> str:
        """The text that follows every question; empty for none."""

    @property
    def stop_ids(self) -> list[int]:
        """The ids that end a completion, the chat's end token first."""

    @property
    def counted_stop_ids(self) -> list[int]:
        """Those of ``stop_ids`` after which a completion's tokens no longer count."""

    @property
    def sampling(self) -> Sampling:
        """Which frames of a clip the model is shown."""

    @property
    def sample_rate(self) -> int:
        """Of the sound that is processed, in Hz."""

    @property
    def window_s(self) -> float:
        """Length of the longest sound that can be processed, in seconds."""

    @property
    def common_shapes(self) -> Mapping[str, VideoShape | AudioShape]:
        """The shape of every "video" and "audio", in a family where all clips have one.

        Features that were cached without a shape have these; a family whose clips differ never
        wrote such features, and has none.
        """

    def blank(self, shape: VideoShape | AudioShape) -> Tensor:
        """Make a grey picture, or silence, of a shape: what a tower takes of it."""

    def check_text(self, text: str, source: str) -> None:
        """Refuse text that the tokenizer would read as a placeholder or an end of turn.

        Raises:
            UserError: It names ``source`` and the token.
        """

    def decode(self, completion_ids: Tensor, completion_mask: Tensor) -> list[str]:
        """Decode completions ([N, T] ids and mask) up to their first end token."""

    def fingerprint(self) -> dict[str, dict[str, object]]:
        """Return the "video" and the "audio" settings that change features, as plain values."""

    def save(self, folder: Path) -> None:
        """Write all that is needed to load it into a checkpoint folder."""


class Policy(Modules, Protocol):
    """A video + audio language model and its processor."""

    processor: Processor
    language_model: PreTrainedModel
    config: PreTrainedConfig
    """Its ``model_type`` names the family, see ``families``."""
    adapter_checkpoint: AdapterCheckpoint | None
    """Set for a policy with adapters, whose checkpoints hold those and not their base."""

    @property
    def never_trained(self) -> Sequence[str]:
        """Weights that are constants, e.g. a table of sinusoids; whatever the options say."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """List all weights, frozen ones too."""

    def train(self, mode: bool = True) -> Policy:
        """Switch dropout and the like; frozen parts stay in eval mode."""

    def eval(self) -> Policy:
        """Switch to eval mode."""

    def requires_grad_(self, requires_grad: bool = True) -> Policy:
        """Set whether all weights train."""

    def to(self, *, device: torch.device) -> Policy:
        """Move all weights."""

    def towers(self) -> Mapping[str, nn.Module]:
        """Return the "video" and the "audio" tower."""

    def tower_config(self) -> dict[str, object]:
        """Return what decides features beside weights and processor, as plain values."""

    def encode(self, batch: Batch) -> Features:
        """Run the towers once on every clip of the batch that was read: a tensor a clip."""

    def prompts(self, batch: Batch, features: Features) -> Prompts:
        """Embed the prompts, with projected features in their places, and say where tokens stand.

        This is the only way to a prompt: training, evaluation and attribution all take it.
        """

    def completion_logits(
        self,
        prompts: Prompts,
        prompt_index: Tensor,
        completion_ids: Tensor,
        completion_mask: Tensor,
    ) -> Tensor:
        """Compute the logits that predict each completion token: [N, T, V], each prompt once."""

    def frozen_copy(self) -> Policy:
        """Copy what trains, share what does not, and freeze the copy: the reference policy."""

    def save(self, folder: Path) -> None:
        """Write a folder that ``load_policy`` reads back."""
