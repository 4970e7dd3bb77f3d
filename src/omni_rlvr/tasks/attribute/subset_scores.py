"""Score the label list under every subset of a clip's modalities, and under swapped sounds.

Towers run once a clip; every subset, replacement and swap reuses their features, and all prompts of
a batch are embedded and scored together. No answer is sampled: only what the policy is shown
varies. ``functional/shapley`` takes Shapley values from these scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from omni_rlvr.config.sampling import greedy
from omni_rlvr.models.policy import Policy
from omni_rlvr.rollout.encode import encode, make_prompts
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.rollout.label_scoring import TAGGED, completion_slot, label_logps, prompt_slot
from omni_rlvr.tasks.attribute import subsets
from omni_rlvr.tasks.attribute.subsets import NO_DONOR, Media, Mix, Stand
from omni_rlvr.types import AudioShape, Batch, Features, Prompts, Rollout, VideoShape

EMPTY_THINK = replace(TAGGED, text="<think></think>\n<answer>")
"""Answer tags behind an empty think block."""
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
    """Prompts scored at once; it changes memory and speed, and no value."""


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

    @torch.no_grad()
    def features(self, shape: VideoShape | AudioShape, like: Batch) -> Tensor:
        """Give the features of a blank clip.

        Args:
            shape: of the picture or sound that the blank clip replaces.
            like: a batch whose device and feature dtype the features get.
        """
        if shape not in self._made:
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
            (features,) = made.video if is_video else made.audio
            assert features is not None  # there was something to encode
            self._made[shape] = features
        return self._made[shape]


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
    pairs, rows = [], range(len(batch))
    for shapes in (batch.audio_shapes, batch.video_shapes):
        present = [row for row in rows if shapes[row] is not None]
        pairs.append(subsets.find_donors(labels, present, generator))
    sounds, pictures = pairs
    media = Media.of(batch, features)
    unpaired: list[int] = []
    if method.absent == "silence_grey":
        media, stand = _with_blanks(batch, media, blanks)
    elif method.absent == "drop":
        stand = Stand([None] * len(batch), [None] * len(batch))
    else:
        stand = Stand(*([None if d == NO_DONOR else d for d in of] for of in (pictures, sounds)))
        unpaired = [
            row
            for row in rows
            if (batch.video_shapes[row] is not None and stand.video[row] is None)
            or (batch.audio_shapes[row] is not None and stand.audio[row] is None)
        ]
    swaps = subsets.swap_mixes(batch, sounds) if method.swap else []
    mixes = [*subsets.subset_mixes(batch, stand, num_players=method.num_players), *swaps]
    distinct, index = subsets.distinct_mixes(batch, mixes)
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
    num_new = method.max_completion_length if method.lead == "own_reasoning" else 0
    size = method.num_prompts
    groups = [group[i : i + size] for group in alike.values() for i in range(0, len(group), size)]
    for rows in groups:
        asked, features = subsets.mixed(batch, media, [mixes[i] for i in rows], policy.processor)
        prompts = make_prompts(
            policy, asked, features, num_new=num_new, key="task.max_completion_length"
        )
        slots = [prompt_slot(policy.processor, e.question) for e in asked.examples]
        if method.lead == "empty_think":
            slots = [EMPTY_THINK if slot == TAGGED else slot for slot in slots]
        if method.lead == "own_reasoning":
            rollout = reasoned(policy, engine, prompts, num_new, torch.Generator())
            texts |= zip(rows, rollout.texts, strict=True)
            ends = zip(rollout.completion_ids, rollout.completion_mask, slots, strict=True)
            slots = [
                completion_slot(policy.processor, ids, mask) or otherwise
                for ids, mask, otherwise in ends
            ]
        logps[rows] = label_logps(policy, prompts, slots=slots, labels=method.labels)
    return logps, [texts[i] for i in range(len(mixes))] if texts else None


def reasoned(
    policy: Policy,
    engine: RolloutEngine,
    prompts: Prompts,
    max_completion_length: int,
    generator: torch.Generator,
) -> Rollout:
    """Write the greedy completion of each prompt, as an evaluation would get it."""
    sampling = greedy(max_completion_length=max_completion_length)
    return engine.sample(policy, prompts, sampling, generator, None)


def _with_blanks(batch: Batch, media: Media, blanks: Blanks) -> tuple[Media, Stand]:
    """Append a blank picture and a blank sound of each shape to the batch's own rows."""
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
    """List the distinct shapes, and each clip's row when these shapes follow all clips."""
    distinct = list(dict.fromkeys(shape for shape in shapes if shape is not None))
    rows = {shape: len(shapes) + i for i, shape in enumerate(distinct)}
    return distinct, [None if shape is None else rows[shape] for shape in shapes]
