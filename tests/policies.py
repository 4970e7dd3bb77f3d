"""Fixtures that need torch: a tiny random policy, batches without clips, both paths of decoding.

A plugin of its own: the process that hands tests out to others runs none, and does not load it.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from omni_rlvr.data.collate import pad_rows, write_prompts
from omni_rlvr.data.synthetic import emotions, wording
from omni_rlvr.models.composed import tiny
from omni_rlvr.models.composed.model import OmniModel
from omni_rlvr.models.prefix.fast_path import fast_path
from omni_rlvr.text.prompts import EMOTION_QUESTION
from omni_rlvr.types import Batch, Example

torch.set_num_threads(1)  # the suite runs two processes side by side

QUESTIONS = (
    "How does this person feel?",
    "Why?",
    "Which emotion do the face and the voice of this person show? Name one word.",
    "What is seen and heard here?",
)
SMALL = {"IMAGE_SIZE": 32, "VIDEO_MERGE": 2, "NUM_FRAMES": 2, "SOUND_S": 1}
"""Sizes of the policy that tests get: what is worked by hand there follows from these."""
KINDS = ("av", "v", "a", "t")
"""Video + audio, video only, audio only, text only."""


def tokenizer_texts() -> list[str]:
    """Questions and reasoned answers, as experiments/tiny_base trains its tokenizer on."""
    asked = [EMOTION_QUESTION, *wording.CAPTION_QUESTIONS.values(), *QUESTIONS]
    texts = [*asked, "user", "assistant"]
    for i in range(50):
        values = {cue: options[i % len(options)] for cue, options in emotions.CUES.items()}
        texts.append(wording.reasoning(values, emotions.LABELS[i % len(emotions.LABELS)]))
    return texts


@pytest.fixture(scope="session")
def build_policy() -> Callable[..., OmniModel]:
    """A factory of tiny random policies; sizes of ``models.composed.tiny`` can be set by name.

    Small pictures and a short window keep prompts short. Weights are made larger than
    transformers' start values, so that what a prompt holds moves its logits by much more than
    rounding does.
    """
    tokenizer = tiny.train_tokenizer(tokenizer_texts())

    def build(**sizes: int) -> OmniModel:
        with pytest.MonkeyPatch.context() as patch:
            for name, size in {**SMALL, **sizes}.items():
                patch.setattr(tiny, name, size)
            torch.manual_seed(0)
            model = tiny.build_tiny(tiny.build_processor(tokenizer))
        with torch.no_grad():
            for part in (model.language_model, model.video_projector, model.audio_projector):
                for weight in part.parameters():
                    if weight.ndim == 2:
                        weight.mul_(3)
        model.vision_tower.requires_grad_(False)
        model.audio_tower.requires_grad_(False)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def _untouched_policy(build_policy: Callable[..., OmniModel]) -> OmniModel:
    return build_policy()


@pytest.fixture
def tiny_policy(_untouched_policy: OmniModel) -> OmniModel:
    """A policy of one's own, always with the same weights, towers frozen, in eval mode."""
    processor = _untouched_policy.processor
    return copy.deepcopy(_untouched_policy, {id(processor): processor})


@pytest.fixture(params=["fast path", "general path"])
def each_path(request, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs a test twice: as it is, and with the fast path's folder made unimportable."""
    if request.param == "general path":
        monkeypatch.setitem(sys.modules, "omni_rlvr.models.prefix.cpu_float32", None)
    fast_path.cache_clear()
    assert (fast_path() is None) == (request.param == "general path")
    yield
    fast_path.cache_clear()


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """A factory of batches with random media, prompts of unequal length and, if given, targets."""

    def make(
        policy: OmniModel,
        n: int,
        kinds: Sequence[str] = KINDS,
        targets: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        processor, config = policy.processor, policy.config
        kinds = [kinds[i % len(kinds)] for i in range(n)]
        video_rows = [i for i, kind in enumerate(kinds) if "v" in kind]
        audio_rows = [i for i, kind in enumerate(kinds) if "a" in kind]
        size = config.vision_config.image_size
        video = (len(video_rows), processor.settings.num_frames, 3, size, size)
        audio = (
            len(audio_rows),
            config.audio_config.num_mel_bins,
            2 * config.audio_config.max_source_positions,
        )
        pad = processor.tokenizer.pad_token_id
        video_shapes = [processor.video_shape if "v" in kind else None for kind in kinds]
        audio_shapes = [processor.audio_shape if "a" in kind else None for kind in kinds]
        prompt_ids, prompt_mask, prompt_positions = write_prompts(
            processor, [QUESTIONS[i % 4] for i in range(n)], video_shapes, audio_shapes
        )
        pixels = iter(torch.randn(video, generator=generator) if video_rows else ())
        sounds = iter(torch.randn(audio, generator=generator) if audio_rows else ())
        completion_ids = completion_mask = None
        if targets is not None:
            rows = [processor.target_ids(targets[i % len(targets)]) for i in range(n)]
            completion_ids, completion_mask = pad_rows(rows, pad=pad, left=False)
        return Batch(
            examples=[
                example(f"clip{i}", question=QUESTIONS[i % 4], answer=emotions.LABELS[0])
                for i in range(n)
            ],
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            prompt_positions=prompt_positions,
            video_shapes=video_shapes,
            audio_shapes=audio_shapes,
            pixel_values=[next(pixels) if "v" in kind else None for kind in kinds],
            input_features=[next(sounds) if "a" in kind else None for kind in kinds],
            completion_ids=completion_ids,
            completion_mask=completion_mask,
        )

    return make


def example(
    clip_id: str, *, question: str = "?", answer: str = "happy", target: str = ""
) -> Example:
    """An example whose clip is never read."""
    return Example(
        id=clip_id,
        question=question,
        answer=answer,
        target=target or answer,
        video=Path(f"{clip_id}.mp4"),
        source=f"made:{clip_id}",
    )
