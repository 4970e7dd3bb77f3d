"""Prompts with another choice of parts: a modality left out, blanked, or taken from another clip.

A ``Mix`` says for one prompt where its picture, its sound and its question come from; ``mixed``
makes the batch of all mixes from features that were computed once. Subsets of modalities, their
replacements and the swap test are all mixes. Nothing is scored here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from omni_rlvr.data.collate import pad_rows
from omni_rlvr.models.policy import Processor
from omni_rlvr.types import Batch, Features

PLAYERS = ("audio", "video", "text")
"""Bit i of a subset's number says whether player i is in it."""
NO_DONOR = -1


@dataclass(frozen=True)
class Mix:
    """Where one prompt takes its parts from: rows of a batch (or of its features)."""

    row: int
    """The clip whose question is asked."""
    video: int | None
    """Place in the batch's video features, or None for no picture."""
    audio: int | None
    """Place in the batch's audio features, or None for no sound."""
    text: bool
    """Whether the question is asked; the processor's instruction always is."""


@dataclass(frozen=True)
class Stand:
    """What stands in a prompt where a modality is absent, one place a row; None: nothing."""

    video: Sequence[int | None]
    audio: Sequence[int | None]


def subset_mixes(batch: Batch, stand: Stand, *, num_players: int) -> list[Mix]:
    """Lists every subset of the players for every row: row ``b * 2**n + subset``.

    A clip that lacks a modality lacks it in every subset, whatever stands for absent ones.

    Args:
        batch: B rows.
        stand: for rows that have the modality, what replaces it.
        num_players: 2 (audio, video) or 3 (and the prompt text).
    """
    video, audio = places(batch.video_rows), places(batch.audio_rows)
    return [
        Mix(
            row,
            video=video.get(row) if subset & 2 or row not in video else stand.video[row],
            audio=audio.get(row) if subset & 1 or row not in audio else stand.audio[row],
            text=bool(subset & 4) or num_players == 2,
        )
        for row in range(len(batch))
        for subset in range(2**num_players)
    ]


def swap_mixes(batch: Batch, donors: Sequence[int]) -> list[Mix]:
    """Puts another clip's sound under each picture; rows without picture or donor are left out.

    Args:
        batch: B rows.
        donors: [B] the row whose sound is taken, or ``NO_DONOR``.
    """
    video, audio = places(batch.video_rows), places(batch.audio_rows)
    return [
        Mix(row, video=video[row], audio=audio[donor], text=True)
        for row, donor in enumerate(donors)
        if donor != NO_DONOR and row in video
    ]


def distinct_mixes(batch: Batch, mixes: Sequence[Mix]) -> tuple[list[Mix], list[int]]:
    """Keeps one of those that make the same prompt: without media, clips do not differ.

    Returns:
        The distinct mixes, and which of them each mix is.
    """
    first: dict[tuple, Mix] = {}
    keys = [(batch.examples[m.row].question, m.video, m.audio, m.text) for m in mixes]
    for key, mix in zip(keys, mixes, strict=True):
        first.setdefault(key, mix)
    place = {key: i for i, key in enumerate(first)}
    return list(first.values()), [place[key] for key in keys]


def places(media_rows: Tensor) -> dict[int, int]:
    """Row of the batch -> its place in the stack of that modality's features."""
    return {row: place for place, row in enumerate(media_rows.tolist())}


def find_donors(
    labels: Sequence[str], rows: Sequence[int], generator: torch.Generator
) -> list[int]:
    """Pairs each of some rows with another of another label; no row is taken twice.

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
    batch: Batch, features: Features, mixes: Sequence[Mix], processor: Processor
) -> tuple[Batch, Features]:
    """Makes the batch of some mixes: prompts with placeholders for just what is there.

    Args:
        batch: where questions come from.
        features: where pictures and sounds come from; mixes name places in these stacks.
        mixes: N of them.
        processor: writes the prompts.

    Returns:
        N rows, and the features in the order of their ``video_rows`` and ``audio_rows``.
    """
    device = batch.prompt_ids.device
    prompt_ids = cache(processor.prompt_ids)  # many mixes ask the same of the same media
    prompts = [
        prompt_ids(
            batch.examples[mix.row].question if mix.text else "",
            has_video=mix.video is not None,
            has_audio=mix.audio is not None,
        )
        for mix in mixes
    ]
    ids, mask = pad_rows(prompts, pad=processor.pad_token_id, left=True)
    video_rows, video = _take(features.video, [mix.video for mix in mixes], device)
    audio_rows, audio = _take(features.audio, [mix.audio for mix in mixes], device)
    out = Batch(
        examples=[batch.examples[mix.row] for mix in mixes],
        prompt_ids=ids.to(device),
        prompt_mask=mask.to(device),
        pixel_values=None,  # features stand for the media
        video_rows=video_rows,
        input_features=None,
        audio_rows=audio_rows,
    )
    return out, Features(video=video, audio=audio)


def _take(
    features: Tensor | None, picks: Sequence[int | None], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """The rows that have the modality, and their features."""
    rows = torch.tensor([i for i, p in enumerate(picks) if p is not None], dtype=torch.long)
    chosen = torch.tensor([p for p in picks if p is not None], dtype=torch.long, device=device)
    empty = features is None or len(chosen) == 0
    return rows.to(device), None if empty or features is None else features[chosen]
