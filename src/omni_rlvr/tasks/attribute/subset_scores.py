"""Scores the label list under every subset of a clip's modalities, and under swapped sounds.

Towers run once a clip; every subset, replacement and swap reuses their features, and all prompts of
a batch are embedded and scored together. No sampling: what varies is what the policy is shown.
Shapley values are taken from these scores elsewhere (``functional/shapley``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from omni_rlvr.config.sampling import greedy
from omni_rlvr.models.policy import Policy, Processor
from omni_rlvr.rollout.encode import encode, make_prompts
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.rollout.label_scoring import (
    TAGGED,
    AnswerSlot,
    completion_slot,
    label_logps,
    prompt_slot,
)
from omni_rlvr.tasks.attribute.subsets import (
    NO_DONOR,
    Media,
    Mix,
    Stand,
    distinct_mixes,
    find_donors,
    mixed,
    subset_mixes,
    swap_mixes,
)
from omni_rlvr.types import AudioShape, Batch, Features, VideoShape

EMPTY_THINK = replace(TAGGED, text="<think></think>\n<answer>")
"""Answer tags behind a think block with nothing in it."""
S = TypeVar("S", VideoShape, AudioShape)


@dataclass(frozen=True)
class Method:
    """How the label list is scored under a subset; see ``AttributeTask`` for the choices."""

    labels: Sequence[str]
    num_players: int
    """2: audio and video. 3: the prompt text too."""
    absent: str
    """"drop", "silence_grey" or "other_clip"."""
    lead: str
    """"direct", "empty_think" or "own_reasoning"."""
    swap: bool
    """Whether sounds are swapped too."""
    max_completion_length: int
    """Most tokens of a generated reasoning."""
    num_prompts: int
    """Prompts scored at once: a matter of memory and speed that changes no value."""


@dataclass(frozen=True)
class Scores:
    """The label list's scores on one batch of B clips."""

    logps: Tensor
    """[B, 2**n, L] float32 nats, subsets as in ``PLAYERS``; NaN where a clip had no donor."""
    swaps: Tensor
    """[K, L] float32 nats of pictures with another clip's sound."""
    pairs: Sequence[tuple[int, int]]
    """K pairs: the row of the picture, the row of the sound."""
    texts: Sequence[str] | None
    """B greedy completions of the whole clips, where the lead asked for them."""


class Blanks:
    """Features of grey pictures and of silence, one a shape; each is encoded once."""

    def __init__(self, policy: Policy) -> None:
        """Hold the policy whose processor makes them and whose towers encode them."""
        self.policy = policy
        self._made: dict[VideoShape | AudioShape, Tensor] = {}

    def features(self, shape: VideoShape | AudioShape, like: Batch) -> Tensor:
        """Give the features of a blank clip.

        Args:
            shape: Of what it stands in for.
            like: A batch whose device and feature dtype they have.
        """
        if shape not in self._made:
            self._made[shape] = self._encoded(shape, like)
        return self._made[shape]

    @torch.no_grad()
    def _encoded(self, shape: VideoShape | AudioShape, like: Batch) -> Tensor:
        blank = self.policy.processor.blank(shape).to(like.prompt_ids.device)
        is_video = isinstance(shape, VideoShape)
        one = Batch(
            examples=like.examples[:1],
            prompt_ids=like.prompt_ids[:1],
            prompt_mask=like.prompt_mask[:1],
            prompt_positions=like.prompt_positions[..., :1, :],
            video_shapes=[shape if isinstance(shape, VideoShape) else None],
            audio_shapes=[shape if isinstance(shape, AudioShape) else None],
            pixel_values=[blank if is_video else None],
            input_features=[None if is_video else blank],
            feature_dtype=like.feature_dtype,
        )
        made = encode(self.policy, one)
        features = made.video[0] if is_video else made.audio[0]
        assert features is not None  # there was something to encode
        return features


@torch.no_grad()
def score_batch(
    policy: Policy,
    engine: RolloutEngine,
    batch: Batch,
    features: Features,
    method: Method,
    *,
    blanks: Blanks,
    generator: torch.Generator,
) -> Scores:
    """Score every subset of every clip, and the swaps, in one pass.

    Args:
        policy: in eval mode.
        engine: writes the reasoning, where the lead asks for it.
        batch: B clips.
        features: of the batch.
        method: what is scored, and how.
        blanks: For absent="silence_grey".
        generator: decides which clips are paired.

    Returns:
        Scores, on the batch's device.
    """
    labels = [example.answer for example in batch.examples]
    sounds = find_donors(labels, _present(batch.audio_shapes), generator)
    pictures = find_donors(labels, _present(batch.video_shapes), generator)
    media = Media.of(batch, features)
    unpaired: list[int] = []
    if method.absent == "silence_grey":
        media, stand = _with_blanks(batch, media, blanks)
    elif method.absent == "drop":
        stand = Stand([None] * len(batch), [None] * len(batch))
    else:
        stand = Stand(*([None if d == NO_DONOR else d for d in of] for of in (pictures, sounds)))
        unpaired = _unpaired(batch, stand)
    swaps = swap_mixes(batch, sounds) if method.swap else []
    mixes = [*subset_mixes(batch, stand, num_players=method.num_players), *swaps]
    distinct, index = distinct_mixes(batch, mixes)
    logps, texts = score_mixes(policy, engine, batch, media, distinct, method)
    logps = logps[torch.tensor(index, device=logps.device)]
    num_subsets = 2**method.num_players
    table_rows = len(batch) * num_subsets
    table = logps[:table_rows].unflatten(0, (len(batch), num_subsets)).clone()
    table[unpaired, :-1] = torch.nan  # the whole clip needs no donor
    return Scores(
        logps=table,
        swaps=logps[table_rows:],
        pairs=[(mix.row, sounds[mix.row]) for mix in swaps],
        texts=texts and [texts[i] for i in index[num_subsets - 1 : table_rows : num_subsets]],
    )


def score_mixes(
    policy: Policy,
    engine: RolloutEngine,
    batch: Batch,
    media: Media,
    mixes: Sequence[Mix],
    method: Method,
) -> tuple[Tensor, list[str] | None]:
    """Score the label list behind each prompt: [N, L] nats, and the reasoning if it was asked for.

    Prompts of the same modalities go together, since they are about as long: nothing is padded to
    the length of a picture that is not there.

    Args:
        policy: in eval mode.
        engine: writes the reasoning, where the lead asks for it.
        batch: where questions come from.
        media: where pictures and sounds come from.
        mixes: N prompts.
        method: labels and lead.
    """
    alike: dict[tuple[bool, bool, bool], list[int]] = {}
    for i, mix in enumerate(mixes):
        alike.setdefault((mix.video is None, mix.audio is None, mix.text), []).append(i)
    logps = torch.zeros(len(mixes), len(method.labels), device=batch.prompt_ids.device)
    texts: dict[int, str] = {}
    for group in alike.values():
        for start in range(0, len(group), method.num_prompts):
            rows = group[start : start + method.num_prompts]
            some = [mixes[i] for i in rows]
            scored, said = _score(policy, engine, batch, media, some, method)
            logps[rows] = scored
            texts |= zip(rows, said or (), strict=False)
    return logps, [texts[i] for i in range(len(mixes))] if texts else None


def _score(
    policy: Policy,
    engine: RolloutEngine,
    batch: Batch,
    media: Media,
    mixes: Sequence[Mix],
    method: Method,
) -> tuple[Tensor, Sequence[str] | None]:
    asked, features = mixed(batch, media, mixes, policy.processor)
    num_new = method.max_completion_length if method.lead == "own_reasoning" else 0
    prompts = make_prompts(
        policy, asked, features, num_new=num_new, key="task.max_completion_length"
    )
    slots = [_slot(policy.processor, e.question, method.lead) for e in asked.examples]
    texts: Sequence[str] | None = None
    if method.lead == "own_reasoning":
        rollout = engine.sample(
            policy,
            prompts,
            greedy(max_completion_length=method.max_completion_length),
            torch.Generator(),
            None,
        )
        texts = rollout.texts
        rows = zip(rollout.completion_ids, rollout.completion_mask, slots, strict=True)
        slots = [
            completion_slot(policy.processor, ids, mask) or otherwise
            for ids, mask, otherwise in rows
        ]
    logps = label_logps(policy, prompts, slots=slots, labels=method.labels)
    return logps, texts


def _slot(processor: Processor, question: str, lead: str) -> AnswerSlot:
    """Where the label goes in a reply that is not generated."""
    slot = prompt_slot(processor, question)
    return EMPTY_THINK if lead == "empty_think" and slot == TAGGED else slot


def _present(shapes: Sequence[VideoShape | AudioShape | None]) -> list[int]:
    return [row for row, shape in enumerate(shapes) if shape is not None]


def _unpaired(batch: Batch, stand: Stand) -> list[int]:
    """List the rows that have a modality for which nothing can stand in."""
    return [
        row
        for row in range(len(batch))
        if (batch.video_shapes[row] is not None and stand.video[row] is None)
        or (batch.audio_shapes[row] is not None and stand.audio[row] is None)
    ]


def _with_blanks(batch: Batch, media: Media, blanks: Blanks) -> tuple[Media, Stand]:
    """Put a blank picture and a blank sound of each shape behind the batch's own rows."""
    pictures, video_rows = _behind(batch.video_shapes)
    sounds, audio_rows = _behind(batch.audio_shapes)
    video = [blanks.features(shape, batch) for shape in pictures]
    audio = [blanks.features(shape, batch) for shape in sounds]
    more = Media(
        Features([*media.features.video, *video], [*media.features.audio, *audio]),
        [*batch.video_shapes, *pictures],
        [*batch.audio_shapes, *sounds],
    )
    return more, Stand(video_rows, audio_rows)


def _behind(shapes: Sequence[S | None]) -> tuple[list[S], list[int | None]]:
    """List the distinct shapes, and which row each clip's has when they stand behind all clips."""
    distinct = list(dict.fromkeys(shape for shape in shapes if shape is not None))
    rows = {shape: len(shapes) + i for i, shape in enumerate(distinct)}
    return distinct, [None if shape is None else rows[shape] for shape in shapes]
