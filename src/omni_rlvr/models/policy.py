"""The interface of a policy and its processor, which every model family implements.

A policy turns a batch into tower features (once a prompt), features into prompt embeddings (with
gradient: projectors train) and embeddings into completion logits. Its ``language_model`` is a
transformers causal LM, so that rollout and update can share a prompt's keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.resize import FrameSize
from omni_rlvr.models.modules import Modules
from omni_rlvr.models.trained_on import TrainedOn
from omni_rlvr.types import AudioShape, Batch, Features, Processing, Prompts, VideoShape

VIDEO_ID, AUDIO_ID = -201, -202
"""Placeholder ids in a prompt, one for each token of a picture or a sound. They are negative, so
that they are not in any vocabulary."""
P = ParamSpec("P")
T = TypeVar("T")
BLOCK_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Names of all linear layers of a transformer block, attention's first."""


@dataclass(frozen=True)
class AdapterCheckpoint:
    """The base of a policy with adapters, and which of its weights checkpoints hold too.

    The base itself is not copied into checkpoints.
    """

    base: Path
    """Folder of the base."""
    fingerprint: str
    """Hash of the base's content."""
    names: frozenset[str]
    """Names in the base of the weights, other than adapters, that are or were trained."""
    quantized: str | None = None
    """How the base was quantised during training; None if it was not."""


class TimeAxis(Protocol):
    """How a model's positions encode the time of picture and sound; needs no weights."""

    @property
    def sampling(self) -> Sampling:
        """The rule that chooses the frames of a clip."""

    def time_axis_error_s(self, frame_times_s: np.ndarray) -> tuple[float, float]:
        """Compute how far apart in time picture and sound at the same position are.

        Args:
            frame_times_s: [F] the times of the sampled frames, in seconds.

        Returns:
            The largest difference, and the time from one step of the picture to the next; seconds.
        """


class Processor(Processing, Protocol):
    """Turns text and media into a policy's inputs, and token ids back into text.

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
        """The ``stop_ids`` at which ``completion_mask`` ends."""

    @property
    def sampling(self) -> Sampling:
        """The rule that chooses the frames of a clip."""

    @property
    def sample_rate(self) -> int:
        """Sample rate of the sound that ``audio`` takes, in Hz."""

    @property
    def frame_size(self) -> FrameSize | None:
        """How to resize frames in the process that decodes them; None keeps their size."""

    @property
    def window_s(self) -> float | None:
        """Length of the longest sound that can be processed, in seconds; None for any length."""

    @property
    def common_shapes(self) -> Mapping[str, VideoShape | AudioShape]:
        """The shape of every "video" and "audio", in a family where all clips have one.

        Used for features that were cached before shapes were stored with them; empty for a family
        whose clips differ in shape.
        """

    def blank(self, shape: VideoShape | AudioShape) -> Tensor:
        """Make a tower's input for a grey picture, or silence, of a shape."""

    def check_text(self, text: str, source: str) -> None:
        """Refuse text that the tokenizer would read as a placeholder or an end of turn.

        Raises:
            UserError: The text contains one; names ``source`` and the token.
        """

    def decode(self, completion_ids: Tensor, completion_mask: Tensor) -> list[str]:
        """Decode completions ([N, T] ids and mask) up to their first end token."""

    def fingerprint(self) -> dict[str, dict[str, object]]:
        """Return the settings that affect the features of each tower, as plain values."""

    def save(self, folder: Path) -> None:
        """Write the files that loading needs into a checkpoint folder."""


class Policy(Modules, Protocol):
    """A language model with video or audio input or both, and its processor."""

    processor: Processor
    language_model: PreTrainedModel
    config: PreTrainedConfig
    """Its ``model_type`` names the family, see ``families``."""
    adapter_checkpoint: AdapterCheckpoint | None
    """Set for a policy with adapters, whose checkpoints do not contain the base."""
    trained_on: TrainedOn | None
    """The question and labels of its training; None if its files do not have them."""

    @property
    def never_trained(self) -> Sequence[str]:
        """Weights that never train, whatever the options: constants, e.g. a table of sinusoids."""

    @property
    def lora_targets(self) -> Sequence[str]:
        """Suffixes of the linear layers that get adapters if the config names none."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""

    def __call__(
        self, task: Callable[Concatenate[Policy, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call ``task(policy, ...)``, as every pass with gradient must, see ``sharding``."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """List all weights, frozen ones too."""

    def train(self, mode: bool = True) -> Policy:
        """Set train mode; frozen parts stay in eval mode."""

    def eval(self) -> Policy:
        """Set eval mode."""

    def requires_grad_(self, requires_grad: bool = True) -> Policy:
        """Set whether all weights train."""

    def to(self, *, device: torch.device) -> Policy:
        """Move all weights."""

    def towers(self) -> Mapping[str, nn.Module]:
        """Return the "video" and the "audio" tower, or the one that the model has."""

    def tower_config(self) -> dict[str, object]:
        """Return the config fields that affect the towers' features, as plain values."""

    def encode(self, batch: Batch) -> Features:
        """Run the towers once on every clip of the batch that was decoded: one tensor a clip."""

    def prompts(self, batch: Batch, features: Features) -> Prompts:
        """Embed the prompts, with projected features at their placeholders.

        Training, evaluation and attribution all get their prompts from here.
        """

    def frozen_copy(self) -> Policy:
        """Copy what trains, share what does not, and freeze the copy: the reference policy."""

    def save(self, folder: Path) -> None:
        """Write a folder that ``load_policy`` reads back."""


def embed_prompts(
    language_model: PreTrainedModel, batch: Batch, *, video: Tensor | None, audio: Tensor | None
) -> Prompts:
    """Embed prompts, with the tokens of pictures and sounds at their placeholders.

    Args:
        language_model: Embeds the text.
        batch: The prompts.
        video: [n, width] tokens of all pictures, in the order of the prompts; None for no picture.
        audio: [n, width] tokens of all sounds, likewise.

    Raises:
        ValueError: There are more or fewer placeholders than tokens.
    """
    ids = batch.prompt_ids
    embeds = language_model.get_input_embeddings()(ids.clamp(min=0))
    for placeholder, tokens in ((VIDEO_ID, video), (AUDIO_ID, audio)):
        places = ids == placeholder
        num_places, num_tokens = int(places.sum()), 0 if tokens is None else len(tokens)
        if num_places != num_tokens:
            raise ValueError(f"{num_places} placeholders for {num_tokens} tokens of media")
        if tokens is not None:
            embeds = embeds.masked_scatter(places.unsqueeze(-1), tokens.to(embeds.dtype))
    return Prompts(embeds, batch.prompt_mask, batch.prompt_positions)
