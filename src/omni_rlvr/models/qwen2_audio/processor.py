"""From a question and sound to what Qwen2-Audio reads, and from token ids back to text.

Tokenizer and feature extractor are transformers' own. The sound comes first, in the words of the
model's chat template, then the question. A picture is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.models import tokenizing
from omni_rlvr.models.chat_template import ChatFrame
from omni_rlvr.models.loading.config_file import SETTINGS
from omni_rlvr.models.policy import AUDIO_ID
from omni_rlvr.text import prompts
from omni_rlvr.types import AudioShape, UserError, VideoShape

NO_PICTURE = "Qwen2-Audio reads sound alone; set modality=audio"
_SOUND = "<|media|>"
"""Stands in a user's turn for the tokens of a sound while the chat template is put around it."""
_LEAST_SAMPLES = 1600
"""0.1 s of sound: a shorter one is followed by silence, since less than 3 frames give no token."""


@dataclass(frozen=True)
class ProcessorSettings:
    """What a prompt says besides its sound."""

    instruction: str = ""
    """Text after the question; empty for none."""
    question: str = ""
    """Asked instead of each annotation's question; empty asks the annotation's."""
    question_end: str = "\n"
    """Between question and instruction."""


@dataclass(frozen=True)
class Processor:
    """The processor of one checkpoint."""

    hf_processor: Any
    """transformers' processor of the model: tokenizer and feature extractor."""
    settings: ProcessorSettings

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The language model's tokenizer."""
        return self.hf_processor.tokenizer

    @cached_property
    def chat_frame(self) -> ChatFrame:
        """What the tokenizer's chat template puts around a user's turn.

        Raises:
            UserError: There is no template, or it cannot be used.
        """
        return tokenizing.chat_frame_of(self.tokenizer)

    @property
    def pad_token_id(self) -> int:
        """The id that fills rows up."""
        return tokenizing.pad_id(self.tokenizer)

    @property
    def stop_ids(self) -> list[int]:
        """The ids of the end of a turn and the end of a text; these models write either."""
        return list(dict.fromkeys([self.tokenizer.eos_token_id, self.pad_token_id]))

    @property
    def counted_stop_ids(self) -> list[int]:
        """All ``stop_ids``."""
        return self.stop_ids

    @property
    def instruction(self) -> str:
        """The text that follows every question; empty for none."""
        return self.settings.instruction

    @property
    def sampling(self) -> Sampling:
        """One moment, the middle of a clip; of a too long sound the part around it is heard."""
        return Sampling.count(1)

    @property
    def sample_rate(self) -> int:
        """Of the sound the feature extractor reads, in Hz."""
        return self.hf_processor.feature_extractor.sampling_rate

    @property
    def frame_size(self) -> None:
        """No size (None), since no frames are read."""

    @property
    def window_s(self) -> float:
        """Length of the longest sound that the tower takes, in seconds: 30 as published."""
        return self.hf_processor.feature_extractor.n_samples / self.sample_rate

    @property
    def common_shapes(self) -> Mapping[str, VideoShape | AudioShape]:
        """No shapes, since sounds differ in length."""
        return {}

    def video(self, frames: np.ndarray, times_s: np.ndarray) -> tuple[Tensor, VideoShape]:
        """Refuse a picture.

        Raises:
            UserError: Always.
        """
        raise UserError(NO_PICTURE)

    def audio(self, waveform: np.ndarray) -> tuple[Tensor, AudioShape]:
        """Process [S] float32 sound to [M, L] log-mel of the whole window.

        A sound of less than 0.1 s is followed by silence up to there.

        Raises:
            ValueError: It is longer than the window. Reading a clip keeps to the window, and the
                extractor would cut the rest off without a message.
        """
        extractor = self.hf_processor.feature_extractor
        if len(waveform) > extractor.n_samples:
            raise ValueError(
                f"{len(waveform) / self.sample_rate:g} s of sound, window {self.window_s:g} s"
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
        # a convolution of stride 2, then the mean of each two
        num_tokens = ((num_frames - 1) // 2 - 1) // 2 + 1
        return out["input_features"][0], AudioShape(num_tokens, num_frames)

    def prompt(
        self, question: str, video: VideoShape | None, audio: AudioShape | None
    ) -> tuple[list[int], Tensor]:
        """Tokenise a prompt up to where the assistant speaks; see ``types.Processing``."""
        if video is not None:
            raise UserError(NO_PICTURE)
        settings, hf_processor = self.settings, self.hf_processor
        media, turn = {_SOUND: list[int]()}, ""
        if audio is not None:
            begin, end = hf_processor.audio_bos_token, hf_processor.audio_eos_token
            turn = f"Audio 1: {begin}{_SOUND}{end}\n"
            media[_SOUND] = [AUDIO_ID] * audio.num_tokens
        asked = settings.question or question
        turn += prompts.join(asked, settings.question_end, settings.instruction)
        ids = tokenizing.encode_around(self.tokenizer, self.chat_frame.around(turn), media)
        return ids, torch.arange(len(ids))

    def target_ids(self, text: str) -> list[int]:
        """Tokenise a completion with its end token."""
        return tokenizing.target_ids(self.tokenizer, text)

    def check_text(self, text: str, source: str) -> None:
        """Refuse text that the tokenizer would read as a placeholder or an end of turn.

        Raises:
            UserError: It names where the text stands and the token.
        """
        tokenizing.refuse_special_tokens(self.tokenizer, (_SOUND,), text, source)

    def decode(self, completion_ids: Tensor, completion_mask: Tensor) -> list[str]:
        """Decode completions ([N, T] ids and mask) up to their first end token."""
        return tokenizing.decode(self.tokenizer, self.stop_ids, completion_ids, completion_mask)

    def blank(self, shape: VideoShape | AudioShape) -> Tensor:
        """Make silence of a shape: what the tower takes of it."""
        assert isinstance(shape, AudioShape)
        assert shape.num_frames is not None
        hop = self.hf_processor.feature_extractor.hop_length
        return self.audio(np.zeros(shape.num_frames * hop, np.float32))[0]

    def fingerprint(self) -> dict[str, dict[str, object]]:
        """Return the "audio" settings that change features, as plain values."""
        return {"audio": {"processor": self.hf_processor.feature_extractor.to_dict()}}

    def save(self, folder: Path) -> None:
        """Write all that is needed to load it into a checkpoint folder."""
        self.hf_processor.save_pretrained(folder)
        (folder / SETTINGS).write_text(json.dumps(asdict(self.settings), indent=1))
