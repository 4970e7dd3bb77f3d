"""Turn a question and sound into Qwen2-Audio's inputs, and token ids back into text.

Tokenizer and feature extractor are transformers' own. The sound comes first, in the form of the
model's chat template, then the question. A picture is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.models import tokenizing
from omni_rlvr.models.hf_processor import HfProcessor
from omni_rlvr.models.policy import AUDIO_ID
from omni_rlvr.text import prompts
from omni_rlvr.types import AudioShape, UserError, VideoShape

NO_PICTURE = "Qwen2-Audio takes only sound; set modality=audio"
_LEAST_SAMPLES = 1600
"""0.1 s: shorter sound is padded with silence, since fewer than 3 frames give no token."""


@dataclass(frozen=True)
class ProcessorSettings:
    """The texts of a prompt."""

    instruction: str = ""
    """Text after the question; empty for none."""
    question: str = ""
    """Replaces each annotation's question; empty keeps the annotation's."""
    question_end: str = "\n"
    """Text between question and instruction."""


@dataclass(frozen=True)
class Processor(HfProcessor):
    """The processor of one checkpoint."""

    hf_processor: Any
    """transformers' processor of the model: tokenizer and feature extractor."""
    settings: ProcessorSettings

    @property
    def sampling(self) -> Sampling:
        """One frame in the middle of a clip; sound that is too long is cut around it."""
        return Sampling.count(1)

    @property
    def frame_size(self) -> None:
        """None, since no frames are used."""

    @property
    def window_s(self) -> float:
        """Length of the longest sound that the tower takes, in seconds: 30 as published."""
        return self.hf_processor.feature_extractor.n_samples / self.sample_rate

    def video(self, frames: np.ndarray, times_s: np.ndarray) -> tuple[Tensor, VideoShape]:
        """Refuse a picture.

        Raises:
            UserError: Always.
        """
        raise UserError(NO_PICTURE)

    def audio(self, waveform: np.ndarray) -> tuple[Tensor, AudioShape]:
        """Process [S] float32 sound to [M, L] log-mel of the whole window.

        Sound of less than 0.1 s is padded with silence.

        Raises:
            ValueError: The sound is longer than the window; clips are cut when they are read, and
                the extractor would drop the rest silently.
        """
        extractor = self.hf_processor.feature_extractor
        if len(waveform) > extractor.n_samples:
            raise ValueError(
                f"{len(waveform) / self.sample_rate:g} s of sound are longer than the model's "
                f"window of {self.window_s:g} s"
            )
        waveform = np.pad(waveform, (0, max(_LEAST_SAMPLES - len(waveform), 0)))
        out = extractor(
            [waveform],
            sampling_rate=self.sample_rate,
            padding="max_length",
            return_attention_mask=True,
            return_tensors="pt",
        )
        num_frames = int(out["attention_mask"].sum())
        # a convolution of stride 2, then the mean of each two frames
        num_tokens = ((num_frames - 1) // 2 - 1) // 2 + 1
        return out["input_features"][0], AudioShape(num_tokens, num_frames)

    def prompt(
        self, question: str, video: VideoShape | None, audio: AudioShape | None
    ) -> tuple[list[int], Tensor]:
        """Tokenise a prompt up to the start of the assistant's turn; see ``types.Processing``."""
        if video is not None:
            raise UserError(NO_PICTURE)
        settings, hf_processor = self.settings, self.hf_processor
        media, turn = {self.mark: list[int]()}, ""
        if audio is not None:
            begin, end = hf_processor.audio_bos_token, hf_processor.audio_eos_token
            turn = f"Audio 1: {begin}{self.mark}{end}\n"
            media[self.mark] = [AUDIO_ID] * audio.num_tokens
        asked = settings.question or question
        turn += prompts.join(asked, settings.question_end, settings.instruction)
        ids = tokenizing.encode_around(self.tokenizer, self.chat_frame.around(turn), media)
        return ids, torch.arange(len(ids))

    def blank(self, shape: VideoShape | AudioShape) -> Tensor:
        """Make the tower's input for silence of a shape."""
        assert isinstance(shape, AudioShape)
        assert shape.num_frames is not None
        hop = self.hf_processor.feature_extractor.hop_length
        return self.audio(np.zeros(shape.num_frames * hop, np.float32))[0]

    def fingerprint(self) -> dict[str, dict[str, object]]:
        """Return the settings that affect "audio" features, as plain values."""
        return {"audio": {"processor": self.hf_processor.feature_extractor.to_dict()}}
