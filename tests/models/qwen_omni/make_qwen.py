"""Clips of noise, and what transformers' own processor and model make of them: the oracle."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from omni_rlvr.data.collate import Collate
from omni_rlvr.models.qwen_omni.model import QwenOmni
from omni_rlvr.models.qwen_omni.processor import Processor
from omni_rlvr.types import Batch, Clip, Example, Prompts, Sample

QUESTION = "Which emotion?"


@dataclass(frozen=True)
class Case:
    """A clip: frames at a rate, sound, or both; interleaved or apart."""

    num_frames: int = 0
    fps: float = 2.0
    sound_s: float = 0.0
    interleaved: bool = True
    size: tuple[int, int] = (84, 112)
    target: str = "happy"

    @property
    def frames(self) -> np.ndarray | None:
        """[F, H, W, 3] uint8, or None."""
        noise = np.random.default_rng(self.num_frames)
        shape = (self.num_frames, *self.size, 3)
        return noise.integers(0, 256, shape, dtype=np.uint8) if self.num_frames else None

    @property
    def sound(self) -> np.ndarray | None:
        """[S] float32 at 16 kHz, or None."""
        size = round(self.sound_s * 16_000)
        noise = np.random.default_rng(size)
        return (noise.standard_normal(size) * 0.1).astype(np.float32) if size else None

    @property
    def is_joint(self) -> bool:
        """Whether picture and sound are interleaved."""
        return self.interleaved and bool(self.num_frames) and self.sound_s > 0

    def sample(self) -> Sample:
        """The clip as reading gives it."""
        times_s = np.arange(self.num_frames) / self.fps if self.num_frames else None
        clip = Clip(self.frames, self.sound, self.num_frames / self.fps, times_s)
        return Sample(Example("clip", QUESTION, "happy", self.target, video=None), clip)


CASES = {
    "picture and sound": Case(4, 2.0, 2.0),
    "another rate": Case(6, 1.9, 3.3),
    "odd frames": Case(5, 2.0, 2.5),
    "picture longer": Case(10, 2.0, 2.0),
    "sound longer": Case(4, 2.0, 7.0),
    "apart": Case(4, 2.0, 2.0, interleaved=False),
    "picture": Case(6),
    "sound": Case(sound_s=3.1),
    "text": Case(),
}


def batch_of(processor: Processor, cases: Sequence[Case]) -> Batch:
    """Collate clips; all of a batch are interleaved, or all apart."""
    return Collate(processor, with_target=True)([case.sample() for case in cases])


def joined(processor: Processor, case: Case) -> Processor:
    """The processor that interleaves as a case asks."""
    return processor.changed(use_audio_in_video=case.interleaved)


def prompts_of(policy: QwenOmni, batch: Batch) -> Prompts:
    return policy.prompts(batch, policy.encode(batch))


def by_transformers(processor: Processor, case: Case) -> dict[str, torch.Tensor]:
    """Process a clip with transformers alone."""
    hf_processor, settings = processor.hf_processor, processor.settings
    media = ""
    if case.num_frames:
        media += (
            hf_processor.vision_bos_token + hf_processor.video_token + hf_processor.vision_eos_token
        )
    if case.sound_s and not case.is_joint:
        media += (
            hf_processor.audio_bos_token + hf_processor.audio_token + hf_processor.audio_eos_token
        )
    text = f"<|im_start|>user\n{media}{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    joint = (
        {"load_audio_from_video": True, "audio_from_video_indices": [0]} if case.is_joint else {}
    )
    size = {"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its numpy calls on tensors
        inputs = hf_processor(
            text=[text],
            videos=None if case.frames is None else [case.frames],
            audio=None if case.sound is None else [case.sound],
            fps=case.fps,
            videos_kwargs={"size": size, "cap_pixels_per_frame": False},
            padding=True,
            return_tensors="pt",
            **joint,
        )
    return {name: torch.as_tensor(value) for name, value in inputs.items()}


def rope_of(thinker, case: Case, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """transformers' positions [3, P] of a clip, and its rope delta."""
    mask = inputs.get("feature_attention_mask")
    places, delta = thinker.get_rope_index(
        inputs["input_ids"],
        None,
        inputs.get("video_grid_thw"),
        inputs["attention_mask"],
        case.is_joint,
        None if mask is None else mask.sum(-1),
        inputs.get("video_second_per_grid"),
    )
    return places[:, 0].float(), float(delta)
