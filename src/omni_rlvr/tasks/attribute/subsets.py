"""Prompts with another choice of parts: a modality left out, blanked, or taken from another clip.

A ``Mix`` says for one prompt where its picture, its sound and its question come from; ``mixed``
makes the batch of all mixes from features that were computed once. Subsets of modalities, their
replacements and the swap test are all mixes. Nothing is scored here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from omni_rlvr.data.collate import write_prompts
from omni_rlvr.types import AudioShape, Batch, Features, Processing, VideoShape

T = TypeVar("T")
PLAYERS = ("audio", "video", "text")
"""Bit i of a subset's number says whether player i is in it."""
NO_DONOR = -1


@dataclass(frozen=True)
class Media:
    """Pictures and sounds that mixes take from: a batch's rows, and blank ones behind them."""

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
    """Row of the media whose picture is shown, or None for no picture."""
    audio: int | None
    """Row of the media whose sound is heard, or None for no sound."""
    text: bool
    """Whether the question is asked; the processor's instruction always is."""


@dataclass(frozen=True)
class Stand:
    """Which row of the media stands in where a modality is absent, one a clip; None: nothing."""

    video: Sequence[int | None]
    audio: Sequence[int | None]


def subset_mixes(batch: Batch, stand: Stand, *, num_players: int) -> list[Mix]:
    """List every subset of the players for every row: row ``b * 2**n + subset``.

    A clip that lacks a modality lacks it in every subset, whatever stands for absent ones.

    Args:
        batch: B rows.
        stand: for rows that have the modality, what replaces it.
        num_players: 2 (audio, video) or 3 (and the prompt text).
    """
    return [
        Mix(
            row,
            video=None if video is None else row if subset & 2 else stand.video[row],
            audio=None if audio is None else row if subset & 1 else stand.audio[row],
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
    """Keep one of those that make the same prompt: without media, clips do not differ.

    Returns:
        The distinct mixes, and which of them each mix is.
    """
    first: dict[tuple, Mix] = {}
    keys = [(batch.examples[m.row].question, m.video, m.audio, m.text) for m in mixes]
    for key, mix in zip(keys, mixes, strict=True):
        first.setdefault(key, mix)
    place = {key: i for i, key in enumerate(first)}
    return list(first.values()), [place[key] for key in keys]


def find_donors(
    labels: Sequence[str], rows: Sequence[int], generator: torch.Generator
) -> list[int]:
    """Pair each of some rows with another of another label; no row is taken twice.

    Rows are shuffled, sorted by label and shifted by the size of the largest class: that leaves
    every class, so long as none holds more than half of the rows.

    Args:
        labels: of all B rows.
        rows: those to be paired.
        generator: of the shuffle.

    Returns:
        [B] the row that each row takes from, or ``NO_DONOR`` (rows that are not to be paired, and
        members of a class too large to be paired).
    """
    donors = [NO_DONOR] * len(labels)
    shuffled = [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]
    ordered = sorted(shuffled, key=lambda row: labels[row])
    names = [labels[row] for row in ordered]
    shift = max((names.count(name) for name in set(names)), default=0)
    for place, row in enumerate(ordered):
        donor = ordered[(place + shift) % len(ordered)]
        if labels[donor] != labels[row]:
            donors[row] = donor
    return donors


def mixed(
    batch: Batch, media: Media, mixes: Sequence[Mix], processor: Processing
) -> tuple[Batch, Features]:
    """Make the batch of some mixes: the prompts are asked for anew, features are reused.

    Args:
        batch: Where questions come from.
        media: Where pictures and sounds come from.
        mixes: N of them.
        processor: Writes the prompts.

    Returns:
        N rows, and their features.
    """
    device = batch.prompt_ids.device
    questions = [batch.examples[mix.row].question if mix.text else "" for mix in mixes]
    video_shapes = _taken(media.video_shapes, [mix.video for mix in mixes])
    audio_shapes = _taken(media.audio_shapes, [mix.audio for mix in mixes])
    ids, mask, positions = write_prompts(processor, questions, video_shapes, audio_shapes)
    nothing = [None] * len(mixes)  # features stand for the media
    out = Batch(
        examples=[batch.examples[mix.row] for mix in mixes],
        prompt_ids=ids.to(device),
        prompt_mask=mask.to(device),
        prompt_positions=positions.to(device),
        video_shapes=video_shapes,
        audio_shapes=audio_shapes,
        pixel_values=nothing,
        input_features=nothing,
    )
    return out, Features(
        video=_taken(media.features.video, [mix.video for mix in mixes]),
        audio=_taken(media.features.audio, [mix.audio for mix in mixes]),
    )


def _taken(values: Sequence[T | None], rows: Sequence[int | None]) -> list[T | None]:
    return [None if row is None else values[row] for row in rows]
