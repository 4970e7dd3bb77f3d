"""The part of a processor that is shared by families whose models have a transformers processor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from omni_rlvr.models import tokenizing
from omni_rlvr.models.chat_template import ChatFrame
from omni_rlvr.models.loading.config_file import SETTINGS
from omni_rlvr.types import AudioShape, VideoShape


class HfProcessor:
    """Encodes and decodes text, and saves the processor; the family adds the media."""

    hf_processor: Any
    """transformers' processor of the model, with ``tokenizer`` and ``feature_extractor``."""
    settings: Any
    """The family's dataclass of settings, with ``instruction``."""
    mark: ClassVar[str] = "<|media|>"
    """A mark in a user's turn, replaced by the tokens of media when the prompt is tokenised."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The language model's tokenizer."""
        return self.hf_processor.tokenizer

    @cached_property
    def chat_frame(self) -> ChatFrame:
        """The text that the chat template puts before and after a user's turn.

        Raises:
            UserError: There is no template, or it cannot be used.
        """
        return tokenizing.chat_frame_of(self.tokenizer)

    @property
    def pad_token_id(self) -> int:
        """The id that pads rows."""
        return tokenizing.pad_id(self.tokenizer)

    @property
    def stop_ids(self) -> list[int]:
        """The ids of the end of a turn and of the end of a text; these models use both."""
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
    def sample_rate(self) -> int:
        """Sample rate of the feature extractor's input, in Hz."""
        return self.hf_processor.feature_extractor.sampling_rate

    @property
    def common_shapes(self) -> Mapping[str, VideoShape | AudioShape]:
        """Empty, since the clips of these families differ in shape."""
        return {}

    def target_ids(self, text: str) -> list[int]:
        """Tokenise a completion with its end token."""
        return tokenizing.target_ids(self.tokenizer, text)

    def check_text(self, text: str, source: str) -> None:
        """Refuse text that the tokenizer would read as a placeholder or an end of turn.

        Raises:
            UserError: The text contains such a token; names it and the source.
        """
        tokenizing.refuse_special_tokens(self.tokenizer, (self.mark,), text, source)

    def decode(self, completion_ids: Tensor, completion_mask: Tensor) -> list[str]:
        """Decode completions ([N, T] ids and mask) up to their first end token."""
        return tokenizing.decode(self.tokenizer, self.stop_ids, completion_ids, completion_mask)

    def save(self, folder: Path) -> None:
        """Write the files that loading needs into a checkpoint folder."""
        self.hf_processor.save_pretrained(folder)
        (folder / SETTINGS).write_text(json.dumps(asdict(self.settings), indent=1))
