"""Scores the label list under every subset of a clip's modalities, and under swapped sounds.

Towers run once a clip; every subset, replacement and swap reuses their features, and all prompts of
a batch are embedded and scored together. No sampling: what varies is what the policy is shown.
Shapley values are taken from these scores elsewhere (``functional/shapley``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
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
    Mix,
    Stand,
    distinct_mixes,
    find_donors,
    mixed,
    places,
    subset_mixes,
    swap_mixes,
)
from omni_rlvr.types import Batch, Features

EMPTY_THINK = replace(TAGGED, text="<think></think>\n<answer>")
"""Answer tags behind a think block with nothing in it."""
BLANK_PIXELS, BLANK_S = 32, 1
"""Of a grey frame and of silence; the processor makes them the size of any other clip."""


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


@torch.no_grad()
def blank_features(policy: Policy, like: Batch) -> Features:
    """Encodes one grey picture and one silent sound.

    Args:
        policy: its processor and towers are used.
        like: a batch with the feature dtype to round to.
    """
    processor, device = policy.processor, like.prompt_ids.device
    grey = [round(255 * mean) for mean in processor.image_processor.image_mean]
    shape = (processor.settings.num_frames, BLANK_PIXELS, BLANK_PIXELS, 3)
    frames = np.broadcast_to(np.array(grey, np.uint8), shape)
    silence = np.zeros(BLANK_S * processor.sample_rate, np.float32)
    row = torch.zeros(1, dtype=torch.long, device=device)
    blank = Batch(
        examples=like.examples[:1],
        prompt_ids=like.prompt_ids[:1],
        prompt_mask=like.prompt_mask[:1],
        pixel_values=processor.pixel_values(frames).unsqueeze(0).to(device),
        video_rows=row,
        input_features=processor.input_features([silence]).to(device),
        audio_rows=row,
        feature_dtype=like.feature_dtype,
    )
    return encode(policy, blank)


@torch.no_grad()
def score_batch(
    policy: Policy,
    engine: RolloutEngine,
    batch: Batch,
    features: Features,
    method: Method,
    *,
    blank: Features | None,
    generator: torch.Generator,
) -> Scores:
    """Scores every subset of every clip, and the swaps, in one pass.

    Args:
        policy: in eval mode.
        engine: writes the reasoning, where the lead asks for it.
        batch: B clips.
        features: of the batch.
        method: what is scored, and how.
        blank: what ``blank_features`` made, for absent="silence_grey".
        generator: decides which clips are paired.

    Returns:
        Scores, on the batch's device.
    """
    labels = [example.answer for example in batch.examples]
    sounds = find_donors(labels, batch.audio_rows.tolist(), generator)
    pictures = find_donors(labels, batch.video_rows.tolist(), generator)
    stand, unpaired = _stand(batch, method, pictures, sounds)
    swaps = swap_mixes(batch, sounds) if method.swap else []
    mixes = [*subset_mixes(batch, stand, num_players=method.num_players), *swaps]
    distinct, index = distinct_mixes(batch, mixes)
    logps, texts = score_mixes(policy, engine, batch, _with(features, blank), distinct, method)
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
    features: Features,
    mixes: Sequence[Mix],
    method: Method,
) -> tuple[Tensor, list[str] | None]:
    """Scores the label list behind each prompt: [N, L] nats, and the reasoning if it was asked for.

    Prompts of the same modalities go together, since they are about as long: nothing is padded to
    the length of a picture that is not there.

    Args:
        policy: in eval mode.
        engine: writes the reasoning, where the lead asks for it.
        batch: where questions come from.
        features: where pictures and sounds come from.
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
            scored, said = _score(policy, engine, batch, features, some, method)
            logps[rows] = scored
            texts |= zip(rows, said or (), strict=False)
    return logps, [texts[i] for i in range(len(mixes))] if texts else None


def _score(
    policy: Policy,
    engine: RolloutEngine,
    batch: Batch,
    features: Features,
    mixes: Sequence[Mix],
    method: Method,
) -> tuple[Tensor, Sequence[str] | None]:
    asked, media = mixed(batch, features, mixes, policy.processor)
    num_new = method.max_completion_length if method.lead == "own_reasoning" else 0
    prompts = make_prompts(policy, asked, media, num_new=num_new, key="task.max_completion_length")
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


def _stand(
    batch: Batch, method: Method, pictures: Sequence[int], sounds: Sequence[int]
) -> tuple[Stand, list[int]]:
    """What stands for absent modalities, and the rows for which nothing can."""
    video, audio = places(batch.video_rows), places(batch.audio_rows)
    if method.absent == "silence_grey":  # the blank comes behind the batch's own features
        return Stand([len(video)] * len(batch), [len(audio)] * len(batch)), []
    if method.absent == "drop":
        return Stand([None] * len(batch), [None] * len(batch)), []
    unpaired = [
        row
        for row in range(len(batch))
        if (row in video and pictures[row] == NO_DONOR)
        or (row in audio and sounds[row] == NO_DONOR)
    ]
    return Stand([video.get(d) for d in pictures], [audio.get(d) for d in sounds]), unpaired


def _with(features: Features, blank: Features | None) -> Features:
    """Puts the blank clip behind the others."""
    if blank is None:
        return features
    both = {}
    for name in ("video", "audio"):
        there = [f for f in (vars(features)[name], vars(blank)[name]) if f is not None]
        both[name] = torch.cat(there)
    return Features(**both)
