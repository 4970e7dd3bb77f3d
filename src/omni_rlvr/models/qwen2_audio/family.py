"""The functions that every model family provides, for Qwen2-Audio; see ``families.py``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.models.encoding import Encoding, measure_encoding
from omni_rlvr.models.loading import pretrained
from omni_rlvr.models.loading.weights import check_finite
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.qwen2_audio.model import Qwen2Audio
from omni_rlvr.models.qwen2_audio.processor import Processor, ProcessorSettings
from omni_rlvr.models.qwen2_audio.tiny import build_tiny
from omni_rlvr.types import Batch

TITLE = "Qwen2-Audio"
_NAMES = (
    # language_model.model.layers (before 5.17), model.layers (the language model alone),
    # model.language_model.layers (5.23)
    (re.compile(r"^(?:language_model\.)?model\.(?:language_model\.)?(?=layers\.|embed_tokens\.|norm\.)"),
     "language_model.model."),
    (re.compile(r"^(?:language_model\.)?lm_head\."), "language_model.lm_head."),
    (re.compile(r"^(?:model\.)?audio_tower\."), "audio_tower."),
    (re.compile(r"^(?:model\.)?multi_modal_projector\."), "audio_projector."),
)  # fmt: skip
"""Names of weights in this and earlier versions of transformers -> names in this package."""


def load(
    folder: Path, dtype: torch.dtype, options: LoadOptions, instruction: str | None
) -> Qwen2Audio:
    """Load a published checkpoint, or one that was trained from it."""
    pretrained.check_version(TITLE)
    kind = Qwen2AudioForConditionalGeneration
    config = pretrained.read_config(folder, kind)
    processor = load_processor(folder, config, options, instruction)  # before slow weights
    policy = Qwen2Audio(pretrained.read_model(folder, kind, dtype, TITLE))
    policy.processor = processor
    check_finite(folder, policy.named_parameters())
    return policy.requires_grad_(False).eval()


def skeleton(
    folder: Path, dtype: torch.dtype, options: LoadOptions, instruction: str | None
) -> Qwen2Audio:
    """Build the policy of a folder on the meta device."""
    pretrained.check_version(TITLE)
    kind = Qwen2AudioForConditionalGeneration
    policy = Qwen2Audio(pretrained.outline_model(folder, kind, dtype))
    policy.processor = load_processor(folder, policy.config, options, instruction)
    return policy.requires_grad_(False).eval()


def encoding(policy: Policy, batch: Batch) -> Encoding:
    """Measure the encoding of a batch on the meta device, where the tower needs only shapes."""
    return measure_encoding(policy, batch)


def tiny(seed: int, model_type: str) -> Qwen2Audio:
    """Build the tiny model."""
    pretrained.check_version(TITLE)
    return build_tiny(seed)


def put_processor(
    policy: Policy, folder: Path, options: LoadOptions, instruction: str | None
) -> None:
    """Give a policy the processor that an adapter checkpoint was saved with."""
    assert isinstance(policy, Qwen2Audio)
    policy.processor = load_processor(folder, policy.config, options, instruction)


def sound_window_s(folder: Path | None) -> float:
    """Return the feature extractor's window in seconds; Whisper's own without a folder."""
    if folder is None:
        return WhisperFeatureExtractor().chunk_length
    extractor = pretrained.read_processor(folder, Qwen2AudioProcessor).feature_extractor
    return extractor.n_samples / extractor.sampling_rate


def time_axis(folder: Path, base: Path, options: LoadOptions) -> None:
    """Return None: positions count tokens in this family."""


def own_name(name: str) -> str:
    """Translate a weight's name from transformers' model; other names stay as they are."""
    for pattern, ours in _NAMES:
        name = pattern.sub(ours, name)
    return name


export = pretrained.export


def load_processor(
    folder: Path, config: Any, options: LoadOptions, instruction: str | None
) -> Processor:
    """Load the processor of a folder, and apply the load options; None keeps a setting.

    Raises:
        UserError: It cannot be read or does not fit the model, or an option is for other models.
    """
    options.refuse_others(("wording", "allow_pickle"), TITLE)
    hf_processor = pretrained.read_processor(folder, Qwen2AudioProcessor)
    extractor, sound = hf_processor.feature_extractor, config.audio_config
    audio_id = hf_processor.tokenizer.get_vocab().get(hf_processor.audio_token)
    rows = (
        ("feature_size", extractor.feature_size, sound.num_mel_bins),
        ("nb_max_frames", extractor.nb_max_frames, 2 * sound.max_source_positions),
        ("audio_token", audio_id, config.audio_token_id),
    )
    pretrained.check_fit(folder, rows)
    settings = pretrained.saved_settings(folder, ProcessorSettings())
    processor = Processor(hf_processor, replace(settings, **options.prompt_text(instruction)))
    for name in ("instruction", "question"):
        processor.check_text(vars(processor.settings)[name], f"the model's {name}")
    return processor
