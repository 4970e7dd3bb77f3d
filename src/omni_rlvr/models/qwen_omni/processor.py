"""Turn a question, frames and sound into a Qwen-Omni thinker's inputs, and ids back into text.

Tokenizer, video processor and feature extractor are transformers' own. They are called once a clip,
since a call has only one frame rate and pads sound to the longest. Order and positions of the
tokens are computed by ``layout``, in the data worker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omni_rlvr.media.frame_sampling import Sampling
from omni_rlvr.media.resize import FrameSize
from omni_rlvr.models.hf_processor import HfProcessor
from omni_rlvr.models.policy import AUDIO_ID, VIDEO_ID
from omni_rlvr.models.qwen_omni import layout
from omni_rlvr.models.qwen_omni.generations import Generation
from omni_rlvr.text import prompts
from omni_rlvr.types import AudioShape, VideoShape, require

_LEAST_SAMPLES = 1600
"""0.1 s: shorter sound is padded with silence, since its last frames need neighbours."""
_BRACKETS = {
    layout.VISION_OPENS: "vision_bos_token",
    layout.VISION_CLOSES: "vision_eos_token",
    layout.AUDIO_OPENS: "audio_bos_token",
    layout.AUDIO_CLOSES: "audio_eos_token",
}


@dataclass(frozen=True)
class ProcessorSettings:
    """Which frames of a clip to use, at which size, and the texts of a prompt."""

    fps: float
    """Frames a second."""
    min_frames: int
    """Fewest frames of a clip."""
    max_frames: int
    """Most frames of a clip; a longer clip gets fewer frames a second."""
    min_pixels: int
    """Least height times width of a frame; smaller ones are enlarged."""
    max_pixels: int
    """Most height times width of a frame; larger ones are shrunk."""
    use_audio_in_video: bool = True
    """Whether to interleave a clip's sound with its picture in time, or to put it after it."""
    instruction: str = ""
    """Text after the question; empty for none."""
    question: str = ""
    """Replaces each annotation's question; empty keeps the annotation's."""
    question_end: str = "\n"
    """Text between question and instruction."""

    def __post_init__(self) -> None:
        least, most = self.min_frames, self.max_frames
        even = f"at least min_frames={least}, with an even number between"
        require(self.fps > 0, "model.options.fps", self.fps, "above 0")
        require(least >= 1, "model.options.min_frames", least, "1 or more")
        require(least + least % 2 <= most, "model.options.max_frames", most, even)
        pixels = self.max_pixels
        require(self.min_pixels >= 1, "model.options.min_pixels", self.min_pixels, "1 or more")
        require(
            pixels >= self.min_pixels,
            "model.options.max_pixels",
            pixels,
            f"min_pixels={self.min_pixels} or more",
        )


@dataclass(frozen=True)
class Processor(HfProcessor):
    """The processor of one checkpoint."""

    generation: Generation
    hf_processor: Any
    """transformers' processor of the model: tokenizer, video processor, feature extractor."""
    settings: ProcessorSettings
    timing: layout.Timing

    @property
    def sampling(self) -> Sampling:
        """The rule that chooses the frames of a clip: two for each step in time."""
        settings = self.settings
        return Sampling.rate(
            settings.fps, at_least=settings.min_frames, at_most=settings.max_frames, multiple_of=2
        )

    @property
    def frame_size(self) -> FrameSize:
        """How to resize frames when they are decoded; ``video`` keeps that size."""
        settings = self.settings
        return FrameSize(self.generation.factor, settings.min_pixels, settings.max_pixels)

    @property
    def window_s(self) -> None:
        """None, since sound may have any length: the tower splits it into windows."""

    def video(self, frames: np.ndarray, times_s: np.ndarray) -> tuple[Tensor, VideoShape]:
        """Process [F, H, W, 3] uint8 frames to [patches, values] float32 of their patches.

        If the number of frames is odd, the last is repeated. The seconds of a step follow from
        ``times_s``, so that positions are also correct if ``max_frames`` or the file makes the
        rate differ from ``fps``.
        """
        settings = self.settings
        out = self.hf_processor.video_processor(
            [frames],
            # passed here: the whole processor would use its class's default limits instead
            size={"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels},
            do_sample_frames=False,
            cap_pixels_per_frame=False,
            return_tensors="pt",
        )
        steps, rows, columns = out["video_grid_thw"][0].tolist()
        merged = self.hf_processor.video_processor.merge_size
        grid = (steps, rows // merged, columns // merged)
        shape = VideoShape(math.prod(grid), grid, self._seconds_per_grid(times_s))
        return out["pixel_values_videos"], shape

    def _seconds_per_grid(self, times_s: np.ndarray) -> float:
        """Compute the time from one step of a picture to the next, two frames later."""
        span_s = float(times_s[-1] - times_s[0])
        return 2 * (span_s / (len(times_s) - 1) if span_s > 0 else 1 / self.settings.fps)

    def time_axis_error_s(self, frame_times_s: np.ndarray) -> tuple[float, float]:
        """Compute how far apart picture and sound are; see ``policy.TimeAxis``."""
        steps, seconds = -(-len(frame_times_s) // 2), self._seconds_per_grid(frame_times_s)
        video = VideoShape(steps, (steps, 1, 1), seconds)
        return layout.time_axis_error_s(self.timing, video, frame_times_s), seconds

    def audio(self, waveform: np.ndarray) -> tuple[Tensor, AudioShape]:
        """Process [S] float32 sound at ``sample_rate`` to [M, L] log-mel, one frame for 10 ms.

        Sound of less than 0.1 s is padded with silence.
        """
        extractor = self.hf_processor.feature_extractor
        hop, num_samples = extractor.hop_length, max(len(waveform), _LEAST_SAMPLES)
        num_silent = num_samples - len(waveform)
        num_frames = num_samples // hop
        if self.generation.has_silent_end:
            # transformers pads to 300 s; three hops are enough for the frames that the tower uses
            num_silent, num_frames = num_silent + 3 * hop, -(-num_samples // hop)
        out = extractor(
            [np.pad(waveform, (0, num_silent))],
            sampling_rate=self.sample_rate,
            padding="longest",
            truncation=False,
            return_tensors="pt",
        )["input_features"][0, :, :num_frames]
        return out, AudioShape(self.generation.audio_tokens(num_frames), num_frames)

    def prompt(
        self, question: str, video: VideoShape | None, audio: AudioShape | None
    ) -> tuple[list[int], Tensor]:
        """Tokenise a prompt up to the start of the assistant's turn; see ``types.Processing``.

        The clip comes first, then the question. Positions are [3, P] float32.
        """
        settings = self.settings
        asked = settings.question or question
        text = prompts.join(asked, settings.question_end, settings.instruction)
        blocks: list[layout.Block] = [(video, audio)]
        if video is None or audio is None or not settings.use_audio_in_video:
            blocks = [(video, None)] * (video is not None) + [(None, audio)] * (audio is not None)
        turn = self.chat_frame.around(self.mark * bool(blocks) + text)
        before, _, after = turn.rpartition(self.mark) if blocks else (turn, "", "")
        encode = self.tokenizer.encode
        ids = [
            encode(piece, add_special_tokens=False) if piece else [] for piece in (before, after)
        ]
        kinds, positions = layout.lay_out(self.timing, len(ids[0]), blocks, len(ids[1]))
        row = self._ids_of_kinds[kinds]
        row[kinds == layout.TEXT] = np.array([*ids[0], *ids[1]], dtype=np.int64)
        return row.tolist(), torch.from_numpy(positions)

    @cached_property
    def _ids_of_kinds(self) -> np.ndarray:
        """The token id of each kind; 0 for text."""
        vocabulary = self.tokenizer.get_vocab()
        ids = {layout.TEXT: 0, layout.VIDEO: VIDEO_ID, layout.AUDIO: AUDIO_ID}
        ids |= {kind: vocabulary[vars(self.hf_processor)[name]] for kind, name in _BRACKETS.items()}
        return np.array([ids[kind] for kind in range(len(ids))])

    def blank(self, shape: VideoShape | AudioShape) -> Tensor:
        """Make a tower's input for a grey picture, or silence, of a shape."""
        if isinstance(shape, AudioShape):
            assert shape.num_frames is not None
            hop = self.hf_processor.feature_extractor.hop_length
            return self.audio(np.zeros(shape.num_frames * hop, np.float32))[0]
        video = self.hf_processor.video_processor
        values = 3 * video.temporal_patch_size * video.patch_size**2
        # after normalisation, 0 is the mean of the tower's training pictures
        return torch.zeros(shape.num_tokens * video.merge_size**2, values)

    def fingerprint(self) -> dict[str, dict[str, object]]:
        """Return the settings that affect "video" and "audio" features, as plain values."""
        names = ("fps", "min_frames", "max_frames", "min_pixels", "max_pixels")
        shown = {name: vars(self.settings)[name] for name in names}
        return {
            "video": {**shown, "processor": self.hf_processor.video_processor.to_dict()},
            "audio": {"processor": self.hf_processor.feature_extractor.to_dict()},
        }

    def changed(self, **settings: Any) -> Processor:
        """Return the same processor with other settings."""
        return replace(self, settings=replace(self.settings, **settings))
