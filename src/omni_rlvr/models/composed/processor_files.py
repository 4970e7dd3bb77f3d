"""Load the processor of a checkpoint, and apply the options of a run to its settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import (
    AutoImageProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    WhisperFeatureExtractor,
)

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.models.composed import published_layout
from omni_rlvr.models.composed.model import OmniConfig
from omni_rlvr.models.composed.processor import Processor, ProcessorSettings
from omni_rlvr.models.composed.tokenizers import load_tokenizer
from omni_rlvr.models.loading.config_file import SETTINGS
from omni_rlvr.models.loading.untrusted import check_settings, one_error
from omni_rlvr.models.loading.weights import check_pointer
from omni_rlvr.models.tokenizing import with_padding
from omni_rlvr.types import UserError

FRAMES_PER_SECOND = 50
"""Output frames of a Whisper encoder for a second of sound."""


def load_processor(folder: Path) -> Processor:
    """Load tokenizer, image processor, feature extractor and settings of a checkpoint."""
    if not (folder / "tokenizer.json").is_file():
        raise UserError(
            f"model.path={folder}: the processor cannot be read: tokenizer.json is missing; copy "
            "it from the checkpoint that this one was trained from"
        )
    check_pointer(folder / "tokenizer.json")
    for place in (folder, folder / "image_processor", folder / "feature_extractor"):
        check_settings(place, f"model.path={place}")
    with one_error(f"model.path={folder}: the processor cannot be read"):
        settings = ProcessorSettings(**json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
        return Processor(
            tokenizer=with_padding(
                PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False), folder
            ),
            image_processor=AutoImageProcessor.from_pretrained(
                folder / "image_processor",
                backend=settings.image_backend,
                trust_remote_code=False,
            ),
            feature_extractor=WhisperFeatureExtractor.from_pretrained(
                folder / "feature_extractor", trust_remote_code=False
            ),
            settings=settings,
        ).checked()


def published_processor(folder: Path, config: OmniConfig, fields: dict[str, Any]) -> Processor:
    """Build a published checkpoint's processor.

    It has no processor files: SigLIP's and Whisper's settings are those of their releases.
    """
    audio = config.audio_config
    image_processor, feature_extractor = media_processors(
        config.vision_config.image_size,
        num_mel_bins=audio.num_mel_bins,
        window_s=audio.max_source_positions // FRAMES_PER_SECOND,
    )
    return Processor(
        tokenizer=load_tokenizer(folder),
        image_processor=image_processor,
        feature_extractor=feature_extractor,
        settings=published_layout.read_settings(config, fields["num_frames"]),
    ).checked()


def media_processors(
    image_size: int, *, num_mel_bins: int, window_s: int
) -> tuple[SiglipImageProcessorPil, WhisperFeatureExtractor]:
    """Build SigLIP's and Whisper's preprocessing; transformers' defaults match their releases."""
    return (
        SiglipImageProcessorPil(size={"height": image_size, "width": image_size}),
        WhisperFeatureExtractor(feature_size=num_mel_bins, chunk_length=window_s),
    )


def changed_settings(
    settings: ProcessorSettings, config: OmniConfig, options: LoadOptions, instruction: str | None
) -> ProcessorSettings:
    """Apply the options of a run; None keeps the checkpoint's setting."""
    changes: dict[str, Any] = {
        name: vars(options)[name]
        for name in ("image_fit", "media_end", "stray_vision_tokens", "mask_stops", "gate_text")
        if vars(options)[name] is not None
    }
    changes |= options.prompt_text(instruction)
    if options.num_frames is not None:
        changes["num_frames"] = options.num_frames
        changes["video_tokens"] = config.video_tokens(options.num_frames)
    return replace(settings, **changes)


def check_tokens(folder: Path, config: OmniConfig, settings: ProcessorSettings) -> None:
    """Refuse settings whose number of placeholders differs from the number of features."""
    for name, wanted in (
        ("video_tokens", config.video_tokens(settings.num_frames)),
        ("audio_tokens", config.audio_tokens),
    ):
        seen = vars(settings)[name]
        if seen != wanted:
            raise UserError(
                f"model.path={folder}: {SETTINGS} has {name}={seen}, but config.json gives {wanted}"
            )
