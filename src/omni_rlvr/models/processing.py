"""From text, frames and sound to the tensors a policy reads, and from token ids back to text.

One object per checkpoint: tokenizer (with chat template), image processor and feature extractor are
transformers' own and are saved beside the weights, together with the settings below, so a
checkpoint always gets the prompt, picture size and sound window it was trained with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, SiglipImageProcessor, WhisperFeatureExtractor

from omni_rlvr.types import UserError

SETTINGS = "processor_settings.json"
VIDEO, AUDIO = "<|video|>", "<|audio|>"


@dataclass(frozen=True)
class ProcessorSettings:
    """What a checkpoint's prompt and pictures look like."""

    num_frames: int
    """Frames sampled from a clip."""
    video_tokens: int
    """Prompt tokens a clip's picture takes."""
    audio_tokens: int
    """Prompt tokens a clip's sound takes."""
    image_fit: str
    """How a frame becomes square: "pad" with grey, or "squash"."""
    instruction: str
    """Text after the question, e.g. asking for think and answer tags; empty for none."""


@dataclass(frozen=True)
class Processor:
    """Tokenizer, image processor and feature extractor of one checkpoint."""

    tokenizer: PreTrainedTokenizerBase
    image_processor: SiglipImageProcessor
    feature_extractor: WhisperFeatureExtractor
    settings: ProcessorSettings

    @property
    def video_id(self) -> int:
        """The placeholder id that stands for one picture token."""
        return self.tokenizer.get_vocab()[VIDEO]

    @property
    def audio_id(self) -> int:
        """The placeholder id that stands for one sound token."""
        return self.tokenizer.get_vocab()[AUDIO]

    @property
    def pad_token_id(self) -> int:
        """The id that fills rows up."""
        return self.tokenizer.get_vocab()[str(self.tokenizer.pad_token)]

    @property
    def sample_rate(self) -> int:
        """Of the sound the feature extractor reads, in Hz."""
        return self.feature_extractor.sampling_rate

    def with_instruction(self, instruction: str) -> Processor:
        """Returns the same processor with another instruction after the question."""
        return replace(self, settings=replace(self.settings, instruction=instruction))

    def prompt_ids(self, question: str, *, has_video: bool, has_audio: bool) -> list[int]:
        """Tokenises a prompt up to where the assistant speaks.

        Picture comes first, then sound, then the question; a modality that is not there has no
        tokens.

        Returns:
            Token ids with ``video_id`` / ``audio_id`` where features go.
        """
        text = "\n".join(part for part in (question, self.settings.instruction) if part)
        media = VIDEO * has_video + AUDIO * has_audio
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": media + text}], add_generation_prompt=True, tokenize=False
        )
        ids = self.tokenizer.encode(rendered, add_special_tokens=False)
        counts = {
            self.video_id: self.settings.video_tokens,
            self.audio_id: self.settings.audio_tokens,
        }
        return [i for i in ids for _ in range(counts.get(i, 1))]

    def target_ids(self, text: str) -> list[int]:
        """Tokenises a completion with its end token."""
        return [*self.tokenizer.encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]

    def check_text(self, text: str, source: str) -> None:
        """Refuses text that the tokenizer would read as a placeholder or an end of turn.

        Raises:
            UserError: names where the text stands and the token.
        """
        for token in self.tokenizer.get_added_vocab():
            if token in text:
                raise UserError(f"{source}: the text holds the special token {token}; remove it")

    def decode(self, completion_ids: Tensor, completion_mask: Tensor) -> list[str]:
        """Decodes completions ([N, T] ids and mask) to text without special tokens."""
        rows = [ids[mask.bool()] for ids, mask in zip(completion_ids, completion_mask, strict=True)]
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True)

    def pixel_values(self, frames: np.ndarray) -> Tensor:
        """Processes [F, H, W, 3] uint8 frames to [F, 3, size, size] float32."""
        if self.settings.image_fit == "pad":
            frames = _pad_to_square(frames, self.image_processor.image_mean)
        pictures = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2)))
        return self.image_processor(list(pictures), return_tensors="pt")["pixel_values"]

    def input_features(self, waveforms: Sequence[np.ndarray]) -> Tensor:
        """Processes sounds at ``sample_rate`` to [Ba, M, L] log-mel, padded or cut to the
        extractor's window.
        """
        out = self.feature_extractor(
            list(waveforms), sampling_rate=self.sample_rate, return_tensors="pt"
        )
        return out["input_features"]

    def save(self, folder: Path) -> None:
        """Writes tokenizer, processors and settings into a checkpoint folder."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder / "image_processor")
        self.feature_extractor.save_pretrained(folder / "feature_extractor")
        (folder / SETTINGS).write_text(json.dumps(asdict(self.settings), indent=1))


def _pad_to_square(frames: np.ndarray, mean: Sequence[float]) -> np.ndarray:
    """Centres [F, H, W, 3] frames on a square of the image mean (127 grey for SigLIP)."""
    num_frames, height, width, _ = frames.shape
    if height == width:
        return frames
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.empty((num_frames, side, side, 3), np.uint8)
    square[:] = [int(255 * channel) for channel in mean]
    square[:, top : top + height, left : left + width] = frames
    return square
