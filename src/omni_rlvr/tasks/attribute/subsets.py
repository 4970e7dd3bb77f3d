"""Make prompts in which a modality is left out, blanked, or taken from another clip.

A ``Mix`` says for one prompt where its picture, its sound and its question come from; ``mixed``
makes the batch of all mixes from features that were computed once. Subsets of modalities, their
replacements and the swap test are all mixes. Nothing is scored here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from omni_rlvr.data.collate import write_prompts
from omni_rlvr.types import AudioShape, Batch, Features, Processing, VideoShape

T = TypeVar("T")
PLAYERS = ("audio", "video", "text")
"""Bit i of a subset's number says whether player i is in it."""
AUDIO, VIDEO = 0, 1
SUBSETS = ("none", "audio", "video", "both")
"""Names of the subsets of audio and video, in the order of their numbers."""
NO_DONOR = -1


@dataclass(frozen=True)
class Media:
    """The pictures and sounds of mixes: a batch's rows, followed by blank ones."""

    features: Features
    video_shapes: Sequence[VideoShape | None]
    audio_shapes: Sequence[AudioShape | None]

    @staticmethod
    def of(batch: Batch, features: Features) -> Media:
        """Take the rows of a batch."""
        return Media(features, batch.video_shapes, batch.audio_shapes)


@dataclass(frozen=True)
class Mix:
    """Where one prompt takes its parts from."""

    row: int
    """The clip whose question is asked."""
    video: int | None
    """Row of the media whose picture is used, or None for no picture."""
    audio: int | None
    """Row of the media whose sound is used, or None for no sound."""
    text: bool
    """Whether the question is asked; the processor's instruction always is."""


@dataclass(frozen=True)
class Replacements:
    """For each clip, the row of the media that replaces an absent modality; None for no medium."""

    video: Sequence[int | None]
    audio: Sequence[int | None]


def subset_mixes(batch: Batch, replacements: Replacements, *, num_players: int) -> list[Mix]:
    """List every subset of the players for every row: row ``b * 2**n + subset``.

    A clip that lacks a modality lacks it in every subset, whatever replaces absent modalities.

    Args:
        batch: B rows.
        replacements: for rows that have the modality, what replaces it.
        num_players: 2 (audio, video) or 3 (and the prompt text).
    """
    return [
        Mix(
            row,
            video=None if video is None else row if subset & 2 else replacements.video[row],
            audio=None if audio is None else row if subset & 1 else replacements.audio[row],
            text=bool(subset & 4) or num_players == 2,
        )
        for row, (video, audio) in enumerate(
            zip(batch.video_shapes, batch.audio_shapes, strict=True)
        )
        for subset in range(2**num_players)
    ]


def swap_mixes(batch: Batch, donors: Sequence[int]) -> list[Mix]:
    """Put another clip's sound under each picture; rows without picture or donor are left out.

    Args:
        batch: B rows.
        donors: [B] the row whose sound is taken, or ``NO_DONOR``.
    """
    return [
        Mix(row, video=row, audio=donor, text=True)
        for row, donor in enumerate(donors)
        if donor != NO_DONOR and batch.video_shapes[row] is not None
    ]


def distinct_mixes(batch: Batch, mixes: Sequence[Mix]) -> tuple[list[Mix], list[int]]:
    """Keep one of the mixes that make the same prompt, such as those of all clips without media.

    Returns:
        The distinct mixes, and which of them each mix is.
    """
    keys = [(batch.examples[m.row].question, m.video, m.audio, m.text) for m in mixes]
    first = dict(zip(reversed(keys), reversed(mixes), strict=True))
    place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return [first[key] for key in place], [place[key] for key in keys]


def find_donors(
    labels: Sequence[str], rows: Sequence[int], generator: torch.Generator
) -> list[int]:
    """Pair each of some rows with a row of another label; no row is taken twice.

    Rows are shuffled, sorted by label and shifted by the size of the largest class. So every row
    is paired with another class unless one class has more than half of the rows.

    Args:
        labels: of all B rows.
        rows: the rows to be paired.
        generator: of the shuffle.

    Returns:
        [B] the row that each row takes from, or ``NO_DONOR`` (rows that are not to be paired, and
        members of a class too large to be paired).
    """
    donors = [NO_DONOR] * len(labels)
    shuffled = [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]
    ordered = sorted(shuffled, key=lambda row: labels[row])
    shift = max(Counter(labels[row] for row in rows).values(), default=0)
    for place, row in enumerate(ordered):
        donor = ordered[(place + shift) % len(ordered)]
        if labels[donor] != labels[row]:
            donors[row] = donor
    return donors


def mixed(
    batch: Batch, media: Media, mixes: Sequence[Mix], processor: Processing
) -> tuple[Batch, Features]:
    """Make the batch of some mixes: prompts are written again, features are reused.

    Args:
        batch: where questions come from.
        media: where pictures and sounds come from.
        mixes: N of them.
        processor: writes the prompts.

    Returns:
        N rows, and their features.
    """
    device = batch.prompt_ids.device
    questions = [batch.examples[mix.row].question if mix.text else "" for mix in mixes]
    video, audio = [mix.video for mix in mixes], [mix.audio for mix in mixes]
    video_shapes, audio_shapes = (
        _taken(media.video_shapes, video),
        _taken(media.audio_shapes, audio),
    )
    prompts = write_prompts(processor, questions, video_shapes, audio_shapes)
    ids, mask, positions = (part.to(device) for part in prompts)
    nothing = [None] * len(mixes)  # features take the place of the media
    out = Batch(
        examples=[batch.examples[mix.row] for mix in mixes],
        prompt_ids=ids,
        prompt_mask=mask,
        prompt_positions=positions,
        video_shapes=video_shapes,
        audio_shapes=audio_shapes,
        pixel_values=nothing,
        input_features=nothing,
    )
    features = media.features
    return out, Features(_taken(features.video, video), _taken(features.audio, audio))


def _taken(values: Sequence[T | None], rows: Sequence[int | None]) -> list[T | None]:
    return [None if row is None else values[row] for row in rows]
