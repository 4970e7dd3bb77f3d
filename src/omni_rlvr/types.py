"""The values that travel from a line of an annotation file to a loss.

There is one dataclass for each step of the way: Example -> Clip -> Sample -> Batch -> Rollout ->
Experience -> LossOutput. They hold data only; other files make and read them.

Axes: B prompts, G completions for each prompt, N = B*G rows (row ``b*G + g``), P prompt tokens, T
completion tokens, F frames, H height, W width, C channels, S audio samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


LEADS = {
    "own_reasoning": "after the reasoning that the model generates for that subset of modalities",
    "empty_think": "after an empty think block, not after the model's own reasoning",
    "direct": "directly after the prompt, without any reasoning",
}
"""Value of ``lead`` -> the words for pages and tables that say where labels are scored."""


class UserError(Exception):
    """An error that the user can fix: the message names key or file, its value, and a remedy."""


class Interrupted(Exception):
    """A run stopped cleanly because it was asked to; the message says how to go on."""


class MediaError(UserError):
    """A clip that cannot be read; the message names the file and why."""


def require(condition: bool, key: str, value: object, wanted: str) -> None:
    """Check the value of an option.

    Raises:
        UserError: ``condition`` is false. The message names the key, the value and what is wanted.
    """
    if not condition:
        raise UserError(f"{key}={value!r} is out of range: {wanted}")


def field_check(config: object, group: str) -> Callable[[str, bool, str], None]:
    """Make a function that refuses the value of a field of a config dataclass.

    Args:
        config: The dataclass.
        group: Its key in the whole config, e.g. ``stage.sampling``.

    Returns:
        ``check(field, condition, wanted)``, see ``require``.
    """
    return lambda name, condition, wanted: require(
        condition, f"{group}.{name}", vars(config)[name], wanted
    )


def first_line(error: BaseException) -> str:
    """Give the first line of an error's message, or the error's class if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@dataclass(frozen=True)
class VideoShape:
    """The properties of a clip's picture that its prompt depends on."""

    num_tokens: int
    """The number of prompt tokens for the picture."""
    grid: tuple[int, int, int] | None = None
    """The numbers of time steps, rows and columns of its tokens, for model families whose positions
    have these three axes; else None."""
    seconds_per_grid: float | None = None
    """The seconds from one time step to the next, for such a family."""


@dataclass(frozen=True)
class AudioShape:
    """The properties of a clip's sound that its prompt depends on."""

    num_tokens: int
    """The number of prompt tokens for the sound."""
    num_frames: int | None = None
    """Frames of log-mel, for a family whose sounds differ in length."""


class Processing(Protocol):
    """The part of a processor that collating uses; ``models/policy.py`` declares the rest."""

    @property
    def pad_token_id(self) -> int:
        """The token id that rows are padded with."""

    def video(self, frames: np.ndarray, times_s: np.ndarray) -> tuple[Tensor, VideoShape]:
        """Turn [F, H, W, 3] uint8 frames, shown at [F] seconds, into a vision tower's input."""

    def audio(self, waveform: np.ndarray) -> tuple[Tensor, AudioShape]:
        """Turn [S] float32 sound into an audio tower's input."""

    def prompt(
        self, question: str, video: VideoShape | None, audio: AudioShape | None
    ) -> tuple[list[int], Tensor]:
        """Tokenise a prompt up to the place where the assistant's turn begins.

        Args:
            question: The question.
            video: The shape of the picture; None for no picture.
            audio: The shape of the sound; None for no sound.

        Returns:
            P token ids, with a negative placeholder for each media token; and their positions: [P]
            int64, or [3, P] int64 or float32 in time, height and width.
        """

    def target_ids(self, text: str) -> list[int]:
        """Tokenise a completion with its end token."""


@dataclass(frozen=True)
class Example:
    """One row of an annotation file, validated; its clip has not been opened yet."""

    id: str
    """Unique within its data set, e.g. ``clips/000012.mp4``."""
    question: str
    """The human turn without the ``<video>`` and ``<audio>`` placeholders."""
    answer: str
    """The gold label: the text of the answer tag, or the whole assistant turn when it has none."""
    target: str
    """The assistant turn as annotated: what SFT learns."""
    video: Path | None
    """The video container (its sound track too), or None."""
    audio: Path | None = None
    """A sidecar sound file that replaces the container's sound track, or None."""
    cues: Mapping[str, str] = field(default_factory=dict)
    """Known cue values, where a data set has them (the synthetic one does)."""
    source: str = ""
    """``file:line`` (or ``file[index]``) of the annotation, for error messages."""


NOTE_KINDS = (
    "cut_sound", "sound_gaps", "damaged_sound", "scaled_sound", "silenced_samples", "short",
    "unfinished",
)  # fmt: skip
"""What a ``ClipNote`` may be about; each is counted, as the metric ``media/KIND``."""


@dataclass(frozen=True)
class ClipNote:
    """A difference between a clip's file and what a model is shown of it."""

    kind: str
    """One of ``NOTE_KINDS``."""
    text: str
    """What follows the clip's name in a sentence."""


@dataclass(frozen=True)
class Clip:
    """The decoded frames and sound of one clip."""

    frames: np.ndarray | None
    """[F, H, W, 3] uint8 RGB, upright; None if not requested or if the file has no picture."""
    waveform: np.ndarray | None
    """[S] float32 mono in [-1, 1] at the requested rate; None if not requested or without a track.
    """
    duration_s: float
    """Length of the picture in seconds (of the sound, for a file without picture)."""
    frame_times_s: np.ndarray | None = None
    """[F] float64: when each sampled frame is shown, seconds from the start."""
    notes: tuple[ClipNote, ...] = ()
    """The differences between the file and this clip."""


@dataclass(frozen=True)
class ClipFeatures:
    """The outputs of the frozen towers for one clip, as a feature cache keeps them."""

    video: Tensor | None
    """E.g. [F, patches, D_video], or None: no picture."""
    audio: Tensor | None
    """E.g. [frames, D_audio], or None: no sound."""
    video_shape: VideoShape | None
    """The shape of the picture; None if there is none."""
    audio_shape: AudioShape | None
    """The shape of the sound; None if there is none."""
    notes: tuple[ClipNote, ...] = ()
    """The notes on the clip that was encoded."""


@dataclass(frozen=True)
class Sample:
    """An example with its clip, as a worker process hands it to ``collate``."""

    example: Example
    clip: Clip | None
    """None if there are cached features instead."""
    features: ClipFeatures | None = None

    @property
    def has_video(self) -> bool:
        """Whether there is a picture."""
        return _has(self.features, "video") or _has(self.clip, "frames")

    @property
    def has_audio(self) -> bool:
        """Whether there is sound."""
        return _has(self.features, "audio") or _has(self.clip, "waveform")

    @property
    def notes(self) -> tuple[ClipNote, ...]:
        """Differences between the file and what a model is shown of it."""
        return tuple(
            n for part in (self.clip, self.features) if part is not None for n in part.notes
        )


def _has(part: Clip | ClipFeatures | None, name: str) -> bool:
    return part is not None and vars(part)[name] is not None


@dataclass(frozen=True)
class SkippedClip:
    """Takes the place of a sample whose clip could not be read (``dataset.on_bad_media=skip``)."""

    example: Example
    reason: str


@dataclass(frozen=True)
class Batch:
    """B prompts, padded, and their clips: lists of B entries, one tensor per clip."""

    examples: Sequence[Example]
    prompt_ids: Tensor
    """[B, P] int64, left-padded; a negative placeholder stands for each media token."""
    prompt_mask: Tensor
    """[B, P] int64, 1 on prompt tokens."""
    prompt_positions: Tensor
    """[B, P] int64, or [3, B, P] int64 or float32 in time, height and width; 0 on padding."""
    video_shapes: Sequence[VideoShape | None]
    """The shape of the picture of each row; None for a row without a picture."""
    audio_shapes: Sequence[AudioShape | None]
    """The shape of the sound of each row; None for a row without sound."""
    pixel_values: Sequence[Tensor | None]
    """The input of the vision tower, e.g. [F, 3, H, W] float32; None for a row without a picture,
    or with cached features instead."""
    input_features: Sequence[Tensor | None]
    """The input of the audio tower, e.g. [M, L] float32 log-mel; None as for pixels."""
    features: Features | None = None
    """The features that came from a cache, None for other rows; None if no row has any."""
    feature_dtype: torch.dtype | None = None
    """The type in which the cache keeps features; None without a cache."""
    completion_ids: Tensor | None = None
    """[B, T] int64: the tokenised target with its end token (SFT), right-padded."""
    completion_mask: Tensor | None = None
    """[B, T] int64, 1 on target tokens."""
    places: Sequence[int] = ()
    """[B]: the index of each prompt in the batch of the step, which is over all ranks and counts
    skipped clips too; empty stands for 0, 1, ..."""
    skipped: Sequence[SkippedClip] = ()
    """The clips of this batch that could not be read."""
    notes: Sequence[Sequence[ClipNote]] = ()
    """[B]: the notes on the clip of each row; empty if no clip has any."""

    def __len__(self) -> int:
        return len(self.examples)

    def noted(self) -> list[tuple[str, ClipNote]]:
        """List the notes, each with the id of its clip."""
        rows = zip(self.examples, self.notes, strict=True) if self.notes else ()
        return [(example.id, note) for example, notes in rows for note in notes]


@dataclass(frozen=True)
class Features:
    """The outputs of the towers for B clips, before the (trainable) projectors; computed once for
    each prompt."""

    video: Sequence[Tensor | None]
    """E.g. [F, patches, D_video]; None for a row without a picture, and in an experience if the
    tower trains."""
    audio: Sequence[Tensor | None]
    """E.g. [frames, D_audio]; None as for video."""

    @staticmethod
    def none(num_clips: int) -> Features:
        """Make the features of clips of which nothing is encoded."""
        return Features([None] * num_clips, [None] * num_clips)


@dataclass(frozen=True)
class Prompts:
    """B prompts as the input of the language model."""

    embeds: Tensor
    """[B, P, hidden]; wider for a language model whose layers take more than embeddings, and whose
    embeddings of tokens are then as wide."""
    mask: Tensor
    """[B, P] int64, 1 on tokens, left-padded."""
    positions: Tensor
    """[B, P] int64, or [3, B, P] (float32 where they have fractions) for rotary positions in time,
    height and width; 0 on padding. The positions of a completion continue from the largest one of
    its prompt plus 1."""

    def __len__(self) -> int:
        return len(self.embeds)

    def rows(self, part: slice) -> Prompts:
        """Take some of the prompts."""
        return Prompts(self.embeds[part], self.mask[part], self.positions[..., part, :])


@dataclass(frozen=True)
class Rollout:
    """G sampled completions for each of B prompts."""

    completion_ids: Tensor
    """[N, T] int64, padded after the end token."""
    completion_mask: Tensor
    """[N, T] int64, 1 up to and including the first end token."""
    per_token_logps: Tensor
    """[N, T] float32 nats of the policy that sampled, at the sampling temperature (1 if greedy) and
    before top-k, top-p and repetition penalty, as an update scores them; 0 beyond the mask."""
    texts: Sequence[str]
    """N completions, decoded up to the end token; special tokens before it are kept."""
    truncated: Tensor
    """[N] bool: no end token within ``max_completion_length``."""
    finite: Tensor
    """[N] bool: the logits of all its tokens were finite; if not, its text is meaningless."""
    activations: object | None = None
    """The activations of the layers, from which the first update can start; None if they were not
    asked for or cannot be kept. Only ``models/prefix`` knows what is in it."""


@dataclass(frozen=True)
class RewardOutput:
    """The rewards of N completions."""

    rewards: Tensor
    """[N] float32, the weighted sum of the terms; NaN where no term gave a score."""
    terms: Mapping[str, Tensor]
    """Each term's [N] float32 score, unweighted; NaN where it returned None."""


@dataclass(frozen=True)
class Counts:
    """The numbers of a minibatch that the shares of its micro-batches are divided by."""

    num_sequences: float
    """The number of rows, truncated ones included."""
    num_tokens: float
    """The number of tokens that count in the loss."""
    num_policy_tokens: float
    """The number of tokens whose surrogate loss counts; equal to ``num_tokens`` without an entropy
    mask."""
    num_scored_tokens: float
    """The number of those of ``num_tokens`` that the policy scores: rows that cannot change the
    gradient are left out."""
    num_left_out: float
    """The number of rows with tokens that cannot change the gradient, and are in no micro-batch."""


@dataclass(frozen=True)
class Experience:
    """The input of a policy update: prompts, their features, completions and their advantages."""

    batch: Batch
    features: Features
    prompt_index: Tensor
    """[N] int64: which of the batch's B prompts each completion belongs to."""
    completion_ids: Tensor
    """[N, T] int64."""
    completion_mask: Tensor
    """[N, T] int64."""
    advantages: Tensor | None = None
    """[N] float32; None for SFT."""
    old_per_token_logps: Tensor | None = None
    """[N, T] nats at rollout; None while the policy has not changed since then (ratio 1)."""
    ref_per_token_logps: Tensor | None = None
    """[N, T] nats of the reference policy; None if there is no KL in the loss."""
    contrast_per_token_logps: Tensor | None = None
    """[N, T] nats of the policy at rollout without one modality; None without a contrast term."""
    loss_mask: Tensor | None = None
    """[N, T] int64, 1 on tokens that count in the loss; None if all tokens of completions do."""
    policy_mask: Tensor | None = None
    """[N, T] int64, 1 on tokens whose surrogate loss counts (top entropy); None for all."""
    num_rollout_tokens: float | None = None
    """The tokens that count in all rollouts of the step, divided by the number of minibatches; None
    if this experience is all of them."""
    counts: Counts | None = None
    """The numbers of the whole minibatch over all ranks; None if these rows are all of it."""
    activations: object | None = None
    """The activations of the rollout of these rows; see ``Rollout``."""

    def __len__(self) -> int:
        return len(self.completion_ids)


class LossOutput(NamedTuple):
    """The share of a micro-batch in the loss, and the metrics to log.

    It is a tuple, because FSDP2 looks for tensors in the output of a forward pass.
    """

    loss: Tensor
    """[]: the shares of the micro-batches add up to the loss of their minibatch."""
    metrics: Mapping[str, Tensor]
    """Shares too, which add up over micro-batches; but a metric whose name ends in ``_min`` or
    ``_max`` is the least or greatest value of any row."""
