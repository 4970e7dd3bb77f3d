"""The values that travel from a line of an annotation file to a loss.

One dataclass a stop on the way: Example -> Clip -> Sample -> Batch -> Rollout -> Experience ->
LossOutput. They hold data and nothing else; what makes them and what reads them lives elsewhere.

Axes: B prompts, G completions a prompt, N = B*G rows (row ``b*G + g``), P / T prompt / completion
tokens, F, H, W, C frames, height, width, channels, S audio samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


LEADS = {
    "own_reasoning": "behind what the model says when it is shown just that",
    "empty_think": "behind an empty think block, not behind its own reasoning",
    "direct": "without any reasoning",
}
"""``lead`` -> where labels are scored, in words for a reader."""


class UserError(Exception):
    """Something a user can mend: the message names key or file, the value seen and what to do."""


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
    """What a prompt needs to know of a clip's picture."""

    num_tokens: int
    """Prompt tokens that the picture takes."""
    grid: tuple[int, int, int] | None = None
    """Steps in time, rows and columns of its tokens, where a family's positions tell them apart."""
    seconds_per_grid: float | None = None
    """From one step in time to the next, for such a family."""


@dataclass(frozen=True)
class AudioShape:
    """What a prompt needs to know of a clip's sound."""

    num_tokens: int
    """Prompt tokens that the sound takes."""


class Processing(Protocol):
    """What collating asks of a processor, see ``models/policy.py`` for the rest of it."""

    @property
    def pad_token_id(self) -> int:
        """The id that fills rows up."""

    def video(self, frames: np.ndarray, times_s: np.ndarray) -> tuple[Tensor, VideoShape]:
        """Process [F, H, W, 3] uint8 frames, shown at [F] seconds, to what a vision tower takes."""

    def audio(self, waveform: np.ndarray) -> tuple[Tensor, AudioShape]:
        """Process [S] float32 sound to what an audio tower takes."""

    def prompt(
        self, question: str, video: VideoShape | None, audio: AudioShape | None
    ) -> tuple[list[int], Tensor]:
        """Tokenise a prompt up to where the assistant speaks.

        Args:
            question: What is asked.
            video: Of the picture that it is asked about; None for no picture.
            audio: Of the sound; None for no sound.

        Returns:
            P ids, a placeholder (negative: no token) for each media token, and where they stand:
            [P] int64, or [3, P] in time, height and width.
        """

    def target_ids(self, text: str) -> list[int]:
        """Tokenise a completion with its end token."""


@dataclass(frozen=True)
class Example:
    """One line of an annotation file, validated; nothing is read from the clip yet."""

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
    """What was read of one clip."""

    frames: np.ndarray | None
    """[F, H, W, 3] uint8 RGB, upright; None when not asked for or the file has no picture."""
    waveform: np.ndarray | None
    """[S] float32 mono in [-1, 1] at the asked rate; None when not asked for or without a track."""
    duration_s: float
    """Length of the picture in seconds (of the sound, for a file without picture)."""
    frame_times_s: np.ndarray | None = None
    """[F] float64: when each sampled frame is shown, seconds from the start."""
    notes: tuple[ClipNote, ...] = ()
    """What of it is not as it is in the file."""


@dataclass(frozen=True)
class ClipFeatures:
    """Frozen towers' outputs of one clip, as a feature cache keeps them."""

    video: Tensor | None
    """E.g. [F, patches, D_video], or None: no picture."""
    audio: Tensor | None
    """E.g. [frames, D_audio], or None: no sound."""
    video_shape: VideoShape | None
    """Of the picture; None where there is none."""
    audio_shape: AudioShape | None
    """Of the sound; None where there is none."""
    notes: tuple[ClipNote, ...] = ()
    """Those of the clip that was encoded."""


@dataclass(frozen=True)
class Sample:
    """An example with its clip, as a worker process hands it to ``collate``."""

    example: Example
    clip: Clip | None
    """None where cached features stand for it."""
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
    """Stands for a sample whose clip could not be read under ``dataset.on_bad_media=skip``."""

    example: Example
    reason: str


@dataclass(frozen=True)
class Batch:
    """B prompts, padded, and their clips: lists of B entries, one tensor a clip."""

    examples: Sequence[Example]
    prompt_ids: Tensor
    """[B, P] int64, left-padded; a placeholder (negative: no token) stands for each media token."""
    prompt_mask: Tensor
    """[B, P] int64, 1 on prompt tokens."""
    prompt_positions: Tensor
    """[B, P] int64, or [3, B, P] in time, height and width; 0 on padding."""
    video_shapes: Sequence[VideoShape | None]
    """Of each row's picture; None for a row without one."""
    audio_shapes: Sequence[AudioShape | None]
    """Of each row's sound; None for a row without any."""
    pixel_values: Sequence[Tensor | None]
    """What a vision tower takes, e.g. [F, 3, H, W] float32; None where there is no picture, or
    features stand for it."""
    input_features: Sequence[Tensor | None]
    """What an audio tower takes, e.g. [M, L] float32 log-mel; None as for pixels."""
    features: Features | None = None
    """Those that came from a cache, None for other rows; None if nothing did."""
    feature_dtype: torch.dtype | None = None
    """What the cache keeps features in, also those still to come; None without a cache."""
    completion_ids: Tensor | None = None
    """[B, T] int64: the tokenised target with its end token (SFT), right-padded."""
    completion_mask: Tensor | None = None
    """[B, T] int64, 1 on target tokens."""
    places: Sequence[int] = ()
    """[B]: where each prompt stands in the step's whole batch, over all ranks and with what was
    skipped; empty: 0, 1, .."""
    skipped: Sequence[SkippedClip] = ()
    """Clips that were to be in this batch and could not be read."""
    notes: Sequence[Sequence[ClipNote]] = ()
    """[B]: the notes on the clip of each row; empty where no clip has any."""

    def __len__(self) -> int:
        return len(self.examples)

    def noted(self) -> list[tuple[str, ClipNote]]:
        """List the notes, each with the id of its clip."""
        rows = zip(self.examples, self.notes, strict=True) if self.notes else ()
        return [(example.id, note) for example, notes in rows for note in notes]


@dataclass(frozen=True)
class Features:
    """Tower outputs of B clips, before the (trainable) projectors. Computed once per prompt."""

    video: Sequence[Tensor | None]
    """E.g. [F, patches, D_video]; None where there is no picture, and in an experience if the tower
    trains."""
    audio: Sequence[Tensor | None]
    """E.g. [frames, D_audio]; None as for video."""

    @staticmethod
    def none(num_clips: int) -> Features:
        """Make the features of clips of which nothing is encoded."""
        return Features([None] * num_clips, [None] * num_clips)


@dataclass(frozen=True)
class Prompts:
    """B prompts as a language model takes them."""

    embeds: Tensor
    """[B, P, hidden]."""
    mask: Tensor
    """[B, P] int64, 1 on tokens, left-padded."""
    positions: Tensor
    """[B, P] int64, or [3, B, P] for rotary positions in time, height and width; 0 on padding. A
    completion goes on from one more than its prompt's largest."""

    def __len__(self) -> int:
        return len(self.embeds)

    def first(self, count: int) -> Prompts:
        """Take the first ``count`` prompts."""
        return Prompts(self.embeds[:count], self.mask[:count], self.positions[..., :count, :])


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
    """N decoded completions without special tokens."""
    truncated: Tensor
    """[N] bool: no end token within ``max_completion_length``."""
    finite: Tensor
    """[N] bool: the logits of all its tokens were finite numbers; else its text means nothing."""
    activations: object | None = None
    """What the layers computed on the way, for the first update to start from; None where that was
    not asked for or cannot be kept. Only ``models/prefix`` looks inside."""


@dataclass(frozen=True)
class RewardOutput:
    """What the reward mixture gave N completions."""

    rewards: Tensor
    """[N] float32, the weighted sum of the terms; NaN where no term could judge."""
    terms: Mapping[str, Tensor]
    """Each term's [N] float32 score, unweighted; NaN where it returned None."""


@dataclass(frozen=True)
class Counts:
    """What the shares of a minibatch are divided by."""

    num_sequences: float
    """Rows, truncated ones included."""
    num_tokens: float
    """Tokens that the loss counts."""
    num_policy_tokens: float
    """Tokens whose surrogate counts; as ``num_tokens`` without an entropy mask."""
    num_scored_tokens: float
    """Those of ``num_tokens`` that go through the policy at all: rows that teach nothing do not."""
    num_left_out: float
    """Rows with tokens that teach nothing, and so are in no micro-batch."""


@dataclass(frozen=True)
class Experience:
    """All that a policy update reads: prompts, their features, completions and what they earned."""

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
    """[N, T] nats at rollout; None when the policy has not moved since (ratio 1)."""
    ref_per_token_logps: Tensor | None = None
    """[N, T] nats of the reference; None for no KL in the loss."""
    contrast_per_token_logps: Tensor | None = None
    """[N, T] nats of the policy at rollout without one modality; None for no contrast."""
    loss_mask: Tensor | None = None
    """[N, T] int64, 1 on tokens that the loss counts; None for all of the completions'."""
    policy_mask: Tensor | None = None
    """[N, T] int64, 1 on tokens whose surrogate counts (top entropy); None for all."""
    num_rollout_tokens: float | None = None
    """Counted tokens of the whole batch of rollouts over its number of minibatches; None where
    this is the whole batch."""
    counts: Counts | None = None
    """Of the whole minibatch over all ranks; None where these rows are all of it."""
    activations: object | None = None
    """Those of the rows' rollout, see there."""

    def __len__(self) -> int:
        return len(self.completion_ids)


@dataclass(frozen=True)
class LossOutput:
    """A micro-batch's share of the loss and what to log of it."""

    loss: Tensor
    """[] the share: micro-batch shares of one minibatch add up to its loss."""
    metrics: Mapping[str, Tensor]
    """Shares too: add them up over micro-batches. A name that ends in ``_min`` or ``_max`` is the
    least or most of any row instead."""
