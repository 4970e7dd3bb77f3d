"""What every model family offers to the rollout, the stages and evaluation.

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
"""Placeholders: each stands in a prompt for one token of a picture, or of a sound. They are
negative, so that they are no tokens of any vocabulary."""
P = ParamSpec("P")
T = TypeVar("T")
BLOCK_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Names of all linear layers of a transformer block, attention's first."""


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
    quantized: str | None = None
    """How the base was rounded while they trained; None if it was not."""


class TimeAxis(Protocol):
    """What certifies that a model sees and hears the same moments, without its weights."""

    @property
    def sampling(self) -> Sampling:
        """Which frames of a clip the model is shown."""

    def time_axis_error_s(self, frame_times_s: np.ndarray) -> tuple[float, float]:
        """Compute how far apart picture and sound of one position are in a sounding clip.

        Args:
            frame_times_s: [F] when the sampled frames are shown.

        Returns:
            The largest distance, and the time from one step of the picture to the next; seconds.
        """


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
    def frame_size(self) -> FrameSize | None:
        """How frames are resized where they are decoded; None hands them on as they are."""

    @property
    def window_s(self) -> float | None:
        """Length of the longest sound that can be processed, in seconds; None for any length."""

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
        """Return the settings that change the features of each tower, as plain values."""

    def save(self, folder: Path) -> None:
        """Write all that is needed to load it into a checkpoint folder."""


class Policy(Modules, Protocol):
    """A language model that sees, hears or both, and its processor."""

    processor: Processor
    language_model: PreTrainedModel
    config: PreTrainedConfig
    """Its ``model_type`` names the family, see ``families``."""
    adapter_checkpoint: AdapterCheckpoint | None
    """Set for a policy with adapters, whose checkpoints hold those and not their base."""
    trained_on: TrainedOn | None
    """The question and labels of its training; None where its files do not say."""

    @property
    def never_trained(self) -> Sequence[str]:
        """Weights that are constants, e.g. a table of sinusoids; whatever the options say."""

    @property
    def lora_targets(self) -> Sequence[str]:
        """Linear layers that get adapters where a config names none, by the ends of their names."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights."""

    def __call__(
        self, task: Callable[Concatenate[Policy, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``task(policy, ...)``: the one door to a pass with gradient; see ``sharding``."""

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
        """Return the "video" and the "audio" tower, or the one that the model has."""

    def tower_config(self) -> dict[str, object]:
        """Return what decides features beside weights and processor, as plain values."""

    def encode(self, batch: Batch) -> Features:
        """Run the towers once on every clip of the batch that was read: a tensor a clip."""

    def prompts(self, batch: Batch, features: Features) -> Prompts:
        """Embed the prompts, with projected features in their places, and say where tokens stand.

        This is the only way to a prompt: training, evaluation and attribution all take it.
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
        language_model: It embeds the text.
        batch: The prompts.
        video: [n, width] tokens of all pictures, in the order of the prompts; None for no picture.
        audio: The same for all sounds.

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
