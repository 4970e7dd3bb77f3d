"""Turn text, frames and sound into a policy's input tensors, and token ids back into text.

Each checkpoint has one processor. Its tokenizer (with chat template), image processor and feature
extractor are transformers' own. They are saved next to the weights with the settings below, so that
a checkpoint always gets the prompt, picture size and sound window that it was trained with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.implementations import BertWordPieceTokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase, WhisperFeatureExtractor

from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.resize import shrink_tall
from omni_rlvr.models import tokenizing
from omni_rlvr.models.chat_template import ChatFrame
from omni_rlvr.models.loading.config_file import SETTINGS
from omni_rlvr.models.policy import AUDIO_ID, VIDEO_ID
from omni_rlvr.text import prompts
from omni_rlvr.types import AudioShape, VideoShape, require

GATE = "gate"
"""The gate's vocabulary is saved as ``gate-vocab.txt``."""
VIDEO, AUDIO = "<|video|>", "<|audio|>"
_BLANK_PIXELS, _BLANK_S = 32, 1
"""Side of a grey frame and length of silence before processing, which brings both to full size."""
STRAY = "<|vision_start|><|video_pad|><|vision_end|>"
"""What Qwen2-VL's chat template put before R1-Omni's RL prompts; no picture belongs to it."""


@dataclass(frozen=True)
class ProcessorSettings:
    """Settings of a checkpoint's prompts and pictures."""

    num_frames: int
    """Frames sampled from a clip."""
    video_tokens: int
    """Prompt tokens of a clip's picture."""
    audio_tokens: int
    """Prompt tokens of a clip's sound."""
    image_fit: str
    """How a frame becomes square: "pad" with grey, or "squash"."""
    instruction: str
    """Text after the question, e.g. asking for think and answer tags; empty for none."""
    image_backend: str = "torchvision"
    """What resizes frames: "torchvision", or "pil", which published models were trained with and
    which rounds differently."""
    question: str = ""
    """Replaces each annotation's question; empty keeps the annotation's."""
    question_end: str = "\n"
    """Text between question and instruction."""
    video_start: str = ""
    """Text before a picture's tokens."""
    video_end: str = ""
    """Text after a picture's tokens."""
    audio_start: str = ""
    """Text before a sound's tokens."""
    audio_end: str = ""
    """Text after a sound's tokens."""
    media_separator: str = ""
    """Text between picture and sound."""
    media_end: str = ""
    """Text between the media and the question."""
    stray_vision_tokens: bool = False
    """Whether to put ``STRAY`` before the media, as in R1-Omni's RL."""
    stop_ids: Sequence[int] = ()
    """Ids of tokens that end a completion, besides the chat's end token."""
    mask_stops: bool = True
    """Whether ``completion_mask`` ends at such a token. If False, it ends only at the chat's end
    token, or else at the end of the row, as in R1-Omni's RL."""
    gate_text: str = "prompt"
    """The input of the instruction gate: the "prompt" (question and instruction), or the "turn" as
    in R1-Omni's SFT, with the texts around the media and without newlines."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_ids", tuple(self.stop_ids))  # JSON gives a list
        fits, texts = ("pad", "squash"), ("prompt", "turn")
        require(self.image_fit in fits, "image_fit", self.image_fit, f"one of {fits}")
        backends = ("torchvision", "pil")
        backend = self.image_backend
        require(backend in backends, "image_backend", backend, f"one of {backends}")
        require(self.gate_text in texts, "gate_text", self.gate_text, f"one of {texts}")


@dataclass(frozen=True)
class Processor:
    """Tokenizer, image processor and feature extractor of one checkpoint."""

    tokenizer: PreTrainedTokenizerBase
    image_processor: Any
    """A transformers image processor."""
    feature_extractor: WhisperFeatureExtractor
    settings: ProcessorSettings
    gate_tokenizer: BertWordPieceTokenizer | None = None
    """BERT's tokenizer, for a model with an instruction gate."""

    @cached_property
    def chat_frame(self) -> ChatFrame:
        """The text that the chat template puts before and after a user's turn.

        Raises:
            UserError: There is no template, or it cannot be used.
        """
        return tokenizing.chat_frame_of(self.tokenizer)

    def checked(self) -> Processor:
        """Check the chat template, and return the processor itself.

        Raises:
            UserError: As ``chat_frame``.
        """
        assert self.chat_frame is not None  # runs the template
        return self

    @property
    def pad_token_id(self) -> int:
        """The id that pads rows."""
        return tokenizing.pad_id(self.tokenizer)

    @property
    def stop_ids(self) -> list[int]:
        """The ids that end a completion, the chat's end token first."""
        return [self.tokenizer.eos_token_id, *self.settings.stop_ids]

    @property
    def counted_stop_ids(self) -> list[int]:
        """The ids at which ``completion_mask`` ends, see ``mask_stops``."""
        return self.stop_ids if self.settings.mask_stops else self.stop_ids[:1]

    @property
    def instruction(self) -> str:
        """The text that follows every question; empty for none."""
        return self.settings.instruction

    @property
    def sampling(self) -> Sampling:
        """The rule that chooses the frames of a clip."""
        return Sampling.count(self.settings.num_frames)

    @property
    def sample_rate(self) -> int:
        """Sample rate of the feature extractor's input, in Hz."""
        return self.feature_extractor.sampling_rate

    @property
    def frame_size(self) -> None:
        """None: ``video`` brings all frames to one size."""

    @property
    def window_s(self) -> float:
        """Length of the longest sound that the feature extractor takes, in seconds."""
        return self.feature_extractor.n_samples / self.sample_rate

    def prompt(
        self, question: str, video: VideoShape | None, audio: AudioShape | None
    ) -> tuple[list[int], Tensor]:
        """Tokenise a prompt up to the start of the assistant's turn; see ``types.Processing``.

        The picture comes first, then the sound, then the question; a missing modality has no tokens
        and no text around them. Positions count the tokens.
        """
        turn = self._turn(question, has_video=video is not None, has_audio=audio is not None)
        media = {
            VIDEO: [] if video is None else [VIDEO_ID] * video.num_tokens,
            AUDIO: [] if audio is None else [AUDIO_ID] * audio.num_tokens,
        }
        ids = tokenizing.encode_around(self.tokenizer, self.chat_frame.around(turn), media)
        return ids, torch.arange(len(ids))

    def gate_text(self, question: str, *, has_audio: bool) -> str:
        """Return the instruction gate's input text for a prompt with a picture."""
        if self.settings.gate_text == "prompt":
            return self._text(question)
        turn = self._turn(question, has_video=True, has_audio=has_audio)
        for token, left in ((STRAY, ""), (VIDEO, ""), (AUDIO, "<audio>"), ("\n", "")):
            turn = turn.replace(token, left)
        return turn

    def gate_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenise texts for the instruction gate: ids and mask, both [N, L] int64."""
        assert self.gate_tokenizer is not None
        rows = self.gate_tokenizer.encode_batch(list(texts))
        return torch.tensor([r.ids for r in rows]), torch.tensor([r.attention_mask for r in rows])

    def _text(self, question: str) -> str:
        settings = self.settings
        return prompts.join(
            settings.question or question, settings.question_end, settings.instruction
        )

    def _turn(self, question: str, *, has_video: bool, has_audio: bool) -> str:
        """Write the user's turn, with ``VIDEO`` and ``AUDIO`` in place of the media."""
        settings = self.settings
        media = [f"{settings.video_start}{VIDEO}{settings.video_end}"] * has_video
        media += [f"{settings.audio_start}{AUDIO}{settings.audio_end}"] * has_audio
        joined = settings.media_separator.join(media) + settings.media_end * bool(media)
        return STRAY * settings.stray_vision_tokens + joined + self._text(question)

    def target_ids(self, text: str) -> list[int]:
        """Tokenise a completion with its end token."""
        return tokenizing.target_ids(self.tokenizer, text)

    def check_text(self, text: str, source: str) -> None:
        """Refuse text that the tokenizer would read as a placeholder or an end of turn.

        Raises:
            UserError: The text contains such a token; names it and the source.
        """
        tokenizing.refuse_special_tokens(self.tokenizer, (VIDEO, AUDIO), text, source)

    def decode(self, completion_ids: Tensor, completion_mask: Tensor) -> list[str]:
        """Decode completions ([N, T] ids and mask) up to their first end token."""
        return tokenizing.decode(self.tokenizer, self.stop_ids, completion_ids, completion_mask)

    @property
    def video_shape(self) -> VideoShape:
        """The shape of every clip's picture in a prompt."""
        return VideoShape(self.settings.video_tokens)

    @property
    def audio_shape(self) -> AudioShape:
        """The shape of every clip's sound in a prompt."""
        return AudioShape(self.settings.audio_tokens)

    @property
    def common_shapes(self) -> Mapping[str, VideoShape | AudioShape]:
        """Both shapes by modality; used for features that were cached without a shape."""
        return {"video": self.video_shape, "audio": self.audio_shape}

    def video(self, frames: np.ndarray, times_s: np.ndarray) -> tuple[Tensor, VideoShape]:
        """Process [F, H, W, 3] uint8 frames to [F, 3, size, size] float32.

        ``times_s`` is not used: prompts of this family have no frame times.
        """
        if self.settings.image_fit == "pad":
            frames = _pad_to_square(frames, self.image_processor.image_mean)
        processor = self.image_processor
        if self.settings.image_backend == "pil":
            height, width = processor.size["height"], processor.size["width"]
            frames = shrink_tall(frames, height, width, processor.resample)
        pictures = np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
        listed = list(pictures)
        if self.settings.image_backend == "torchvision":
            listed = list(torch.from_numpy(pictures))
        return processor(listed, return_tensors="pt")["pixel_values"], self.video_shape

    def audio(self, waveform: np.ndarray) -> tuple[Tensor, AudioShape]:
        """Process [S] float32 sound at ``sample_rate`` to [M, L] log-mel of the extractor's window.

        Raises:
            ValueError: The sound is longer than the window; clips are cut when they are read, and
                the extractor would drop the rest silently.
        """
        if len(waveform) > self.feature_extractor.n_samples:
            raise ValueError(
                f"{len(waveform) / self.sample_rate:g} s of sound are longer than the model's "
                f"window of {self.window_s:g} s"
            )
        out = self.feature_extractor(
            [waveform], sampling_rate=self.sample_rate, return_tensors="pt"
        )
        return out["input_features"][0], self.audio_shape

    def blank(self, shape: VideoShape | AudioShape) -> Tensor:
        """Make the tower's input for a grey picture or silence of this shape.

        In this family all clips have one shape.
        """
        if isinstance(shape, AudioShape):
            assert shape == self.audio_shape
            return self.audio(np.zeros(_BLANK_S * self.sample_rate, np.float32))[0]
        assert shape == self.video_shape
        grey = [round(255 * mean) for mean in self.image_processor.image_mean]
        size = (self.settings.num_frames, _BLANK_PIXELS, _BLANK_PIXELS, 3)
        frames = np.broadcast_to(np.array(grey, np.uint8), size)
        return self.video(frames, np.arange(len(frames), dtype=np.float64))[0]

    def fingerprint(self) -> dict[str, dict[str, object]]:
        """Return the settings that affect the features of "video" and "audio", as plain values."""
        settings = self.settings
        return {
            "video": {
                "num_frames": settings.num_frames,
                "image_fit": settings.image_fit,
                "image_backend": settings.image_backend,
                "processor": self.image_processor.to_dict(),
            },
            "audio": {
                "num_frames": settings.num_frames,  # long sound is cut around the frames
                "processor": self.feature_extractor.to_dict(),
            },
        }

    def save(self, folder: Path) -> None:
        """Write tokenizer, processors and settings into a checkpoint folder."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder / "image_processor")
        self.feature_extractor.save_pretrained(folder / "feature_extractor")
        (folder / SETTINGS).write_text(json.dumps(asdict(self.settings), indent=1))
        if self.gate_tokenizer is not None:
            self.gate_tokenizer.save_model(str(folder), GATE)


def _pad_to_square(frames: np.ndarray, mean: Sequence[float]) -> np.ndarray:
    """Centre [F, H, W, 3] frames on a square of the image mean (127 grey for SigLIP)."""
    num_frames, height, width, _ = frames.shape
    if height == width:
        return frames
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.empty((num_frames, side, side, 3), np.uint8)
    square[:] = [int(255 * channel) for channel in mean]
    square[:, top : top + height, left : left + width] = frames
    return square
