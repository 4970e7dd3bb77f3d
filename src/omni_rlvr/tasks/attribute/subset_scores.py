"""Score the label list under every subset of a clip's modalities, and under swapped sounds.

Towers run once a clip; every subset, replacement and swap reuses their features, and all prompts of
a batch are embedded and scored together. No answer is sampled: only what the policy is shown
varies. ``functional/shapley`` takes Shapley values from these scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from omni_rlvr.config.sampling import greedy
from omni_rlvr.models.policy import Policy
from omni_rlvr.rollout.encode import encode, make_prompts
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.rollout.label_scoring import TAGGED, label_logps, prompt_slot, reply_slots
from omni_rlvr.tasks.attribute import subsets
from omni_rlvr.tasks.attribute.subsets import NO_DONOR, Media, Mix, Replacements
from omni_rlvr.types import AudioShape, Batch, Features, Prompts, Rollout, VideoShape

EMPTY_THINK = replace(TAGGED, text="<think></think>\n<answer>")
"""A slot for the label in answer tags after an empty think block."""
S = TypeVar("S", VideoShape, AudioShape)


@dataclass(frozen=True)
class Method:
    """How the label list is scored under a subset; see ``AttributeTask`` for the choices."""

    labels: Sequence[str]
    absent: str
    """"drop", "silence_grey" or "other_clip"."""
    lead: str
    """"direct", "empty_think" or "own_reasoning"."""
    max_completion_length: int
    """The most tokens that a generated reasoning may have."""
    num_prompts: int
    """The number of prompts scored at once; it changes memory and speed, and no value."""
    num_players: int = 2
    """2: audio and video. 3: the prompt text too."""
    swap: bool = False
    """Whether sounds are swapped too."""


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
    """B greedy completions of the whole clips; None unless the lead is "own_reasoning"."""


@dataclass(frozen=True)
class SubsetScorer:
    """Score the label list of a policy under subsets of a clip's modalities."""

    policy: Policy
    """The policy, in eval mode."""
    engine: RolloutEngine
    """Writes the reasoning, if the lead asks for it."""
    method: Method
    blanks: dict[VideoShape | AudioShape, Tensor] = field(default_factory=dict)
    """Shape -> the features of a grey picture, or of silence; each is encoded once."""

    @torch.no_grad()
    def score(self, batch: Batch, features: Features, generator: torch.Generator) -> Scores:
        """Score every subset of every clip, and the swaps, in one pass.

        Args:
            batch: B clips.
            features: Theirs.
            generator: Decides which clips are paired.

        Returns:
            Scores, on the batch's device.
        """
        method, rows = self.method, range(len(batch))
        labels = [example.answer for example in batch.examples]
        pairs = []
        for shapes in (batch.audio_shapes, batch.video_shapes):
            present = [row for row in rows if shapes[row] is not None]
            pairs.append(subsets.find_donors(labels, present, generator))
        sounds, pictures = pairs
        media = Media.of(batch, features)
        unpaired: list[int] = []
        if method.absent == "silence_grey":
            media, replacements = self._with_blanks(batch, media)
        elif method.absent == "drop":
            replacements = Replacements([None] * len(batch), [None] * len(batch))
        else:
            donors = ([None if d == NO_DONOR else d for d in of] for of in (pictures, sounds))
            replacements = Replacements(*donors)
            unpaired = [
                row
                for row in rows
                if (batch.video_shapes[row] is not None and replacements.video[row] is None)
                or (batch.audio_shapes[row] is not None and replacements.audio[row] is None)
            ]
        swaps = subsets.swap_mixes(batch, sounds) if method.swap else []
        mixes = [*subsets.subset_mixes(batch, replacements, num_players=method.num_players), *swaps]
        distinct, index = subsets.distinct_mixes(batch, mixes)
        logps, texts = self._score_mixes(batch, media, distinct)
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

    def _score_mixes(
        self, batch: Batch, media: Media, mixes: Sequence[Mix]
    ) -> tuple[Tensor, list[str] | None]:
        """Score the label list after each of N prompts: [N, L] nats, and the reasoning, if any.

        Prompts with the same modalities are scored together, because their lengths are similar: a
        prompt without a picture is not padded to the length of one with a picture.
        """
        policy, method = self.policy, self.method
        alike: dict[tuple[bool, bool, bool], list[int]] = {}
        for i, mix in enumerate(mixes):
            alike.setdefault((mix.video is None, mix.audio is None, mix.text), []).append(i)
        logps = torch.zeros(len(mixes), len(method.labels), device=batch.prompt_ids.device)
        texts: dict[int, str] = {}
        num_new = method.max_completion_length if method.lead == "own_reasoning" else 0
        size, key = method.num_prompts, "task.max_completion_length"
        groups = [g[i : i + size] for g in alike.values() for i in range(0, len(g), size)]
        for rows in groups:
            chosen = [mixes[i] for i in rows]
            asked, features = subsets.mixed(batch, media, chosen, policy.processor)
            prompts = make_prompts(policy, asked, features, num_new=num_new, key=key)
            slots = [prompt_slot(policy.processor, e.question) for e in asked.examples]
            if method.lead == "empty_think":
                slots = [EMPTY_THINK if slot == TAGGED else slot for slot in slots]
            if method.lead == "own_reasoning":
                rollout = reasoned(policy, self.engine, prompts, num_new, torch.Generator())
                texts |= zip(rows, rollout.texts, strict=True)
                ids, mask = rollout.completion_ids, rollout.completion_mask
                slots = reply_slots(policy.processor, ids, mask, otherwise=slots)
            logps[rows] = label_logps(policy, prompts, slots=slots, labels=method.labels)
        return logps, [texts[i] for i in range(len(mixes))] if texts else None

    def _with_blanks(self, batch: Batch, media: Media) -> tuple[Media, Replacements]:
        """Append a blank picture and a blank sound of each shape to the batch's own rows."""
        pictures, video_rows = _behind(batch.video_shapes)
        sounds, audio_rows = _behind(batch.audio_shapes)
        video = [self._blank(shape, batch) for shape in pictures]
        audio = [self._blank(shape, batch) for shape in sounds]
        more = Media(
            Features([*media.features.video, *video], [*media.features.audio, *audio]),
            [*batch.video_shapes, *pictures],
            [*batch.audio_shapes, *sounds],
        )
        return more, Replacements(video_rows, audio_rows)

    def _blank(self, shape: VideoShape | AudioShape, like: Batch) -> Tensor:
        """Return the features of a blank clip, with the device and dtype of ``like``."""
        if shape not in self.blanks:
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
            self.blanks[shape] = features
        return self.blanks[shape]


def reasoned(
    policy: Policy,
    engine: RolloutEngine,
    prompts: Prompts,
    max_completion_length: int,
    generator: torch.Generator,
) -> Rollout:
    """Generate the greedy completion of each prompt, as in an evaluation."""
    sampling = greedy(max_completion_length=max_completion_length)
    return engine.sample(policy, prompts, sampling, generator, None)


def _behind(shapes: Sequence[S | None]) -> tuple[list[S], list[int | None]]:
    """List the distinct shapes, and each clip's row when these shapes follow all clips."""
    distinct = list(dict.fromkeys(shape for shape in shapes if shape is not None))
    rows = {shape: len(shapes) + i for i, shape in enumerate(distinct)}
    return distinct, [None if shape is None else rows[shape] for shape in shapes]
