"""The functions that every model family provides, for Qwen-Omni; see ``families.py``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.models.encoding import Encoding
from omni_rlvr.models.loading import pretrained
from omni_rlvr.models.loading.config_file import read_fields
from omni_rlvr.models.loading.weights import check_finite
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.qwen_omni import layout
from omni_rlvr.models.qwen_omni.generations import GENERATIONS, Generation
from omni_rlvr.models.qwen_omni.model import QwenOmni
from omni_rlvr.models.qwen_omni.processor import Processor, ProcessorSettings
from omni_rlvr.models.qwen_omni.tiny import build_tiny
from omni_rlvr.types import Batch, Features, UserError

OPTIONS = ("fps", "min_frames", "max_frames", "min_pixels", "max_pixels", "use_audio_in_video")
"""Options that are copied to the processor's settings."""
_LAYERS = re.compile(
    r"^(?:thinker\.)?model\.(?:language_model\.)?(?=layers\.|embed_tokens\.|norm\.)"
)
_TOWERS = re.compile(r"^(?:thinker\.)?(?:model\.)?(visual|audio_tower)\.")


def load(
    folder: Path, dtype: torch.dtype, options: LoadOptions, instruction: str | None
) -> QwenOmni:
    """Load a published checkpoint, one of the thinker only, or one that was trained from them."""
    generation, processor = _processor_of(folder, options, instruction)  # before slow weights
    policy = QwenOmni(pretrained.read_model(folder, generation.thinker, dtype, generation.title))
    policy.processor = processor
    check_finite(folder, policy.named_parameters())
    return policy.requires_grad_(False).eval()


def skeleton(
    folder: Path, dtype: torch.dtype, options: LoadOptions, instruction: str | None
) -> QwenOmni:
    """Build the policy of a folder on the meta device."""
    generation, processor = _processor_of(folder, options, instruction)
    policy = QwenOmni(pretrained.outline_model(folder, generation.thinker, dtype))
    policy.processor = processor
    return policy.requires_grad_(False).eval()


def _processor_of(
    folder: Path, options: LoadOptions, instruction: str | None
) -> tuple[Generation, Processor]:
    """Find the generation of a folder's model, and load its processor."""
    pretrained.check_version("Qwen-Omni")
    generation = GENERATIONS[read_fields(folder)["model_type"]]
    config = pretrained.read_config(folder, generation.thinker)
    return generation, load_processor(folder, config, options, instruction)


def encoding(policy: Policy, batch: Batch) -> Encoding:
    """Estimate the memory from shapes.

    The vision tower cannot run on the meta device: it needs the values of a grid. A layer is
    assumed to keep, for each patch or frame of sound, eight tensors of its hidden size and four of
    its intermediate size. Clips are encoded one by one.
    """
    assert isinstance(policy, QwenOmni)
    width = policy.language_model.get_input_embeddings()(
        torch.zeros(1, dtype=torch.long, device="meta")
    ).shape[1]
    hidden, size = policy.language_model.config.hidden_size, policy.dtype.itemsize
    vision, sound = policy.config.vision_config, policy.config.audio_config
    kept, working, video, audio = 0, 0, [], []
    rows = zip(batch.pixel_values, batch.video_shapes, batch.audio_shapes, strict=True)
    for (patches, picture, voice), log_mel in zip(rows, batch.input_features, strict=True):
        has_picture = picture is not None and patches is not None
        video.append(_empty(policy, picture.num_tokens, width) if has_picture else None)
        audio.append(None if voice is None else _empty(policy, voice.num_tokens, hidden))
        if has_picture:
            inner = len(patches) * vision.intermediate_size
            working = max(working, 3 * inner * size)
            if any(w.requires_grad for w in policy.vision_tower.parameters()):
                kept += vision.depth * size * (8 * len(patches) * vision.hidden_size + 4 * inner)
        if log_mel is not None:
            num_frames = log_mel.shape[1] // 2
            inner = num_frames * sound.encoder_ffn_dim
            working = max(working, 3 * inner * size)
            if any(w.requires_grad for w in policy.audio_tower.parameters()):
                kept += sound.encoder_layers * size * (8 * num_frames * sound.d_model + 4 * inner)
    return Encoding(Features(video, audio), working, kept)


def _empty(policy: QwenOmni, num_tokens: int, width: int) -> torch.Tensor:
    return torch.empty(num_tokens, width, dtype=policy.dtype, device="meta")


def tiny(seed: int, model_type: str) -> QwenOmni:
    """Build a tiny model of the generation of a ``model_type``."""
    pretrained.check_version("Qwen-Omni")
    return build_tiny(GENERATIONS[model_type], seed)


def put_processor(
    policy: Policy, folder: Path, options: LoadOptions, instruction: str | None
) -> None:
    """Give a policy the processor that an adapter checkpoint was saved with."""
    assert isinstance(policy, QwenOmni)
    policy.processor = load_processor(folder, policy.config, options, instruction)


def sound_window_s(folder: Path | None) -> None:
    """Return None: sound may have any length."""


def time_axis(folder: Path, base: Path, options: LoadOptions) -> Processor:
    """Load the processor, which implements ``TimeAxis``."""
    generation = GENERATIONS[read_fields(base)["model_type"]]
    config = pretrained.read_config(base, generation.thinker)
    return load_processor(folder, config, options, None)


def own_name(name: str) -> str:
    """Translate a weight's name from transformers' model to this package.

    Names of versions before 5.17, of the whole model and of the thinker alone are known; other
    names stay as they are.
    """
    name = _LAYERS.sub("language_model.model.language_model.", name)
    name = _TOWERS.sub(
        lambda found: {"visual": "vision_tower."}.get(found[1], "audio_tower."), name
    )
    return re.sub(r"^(?:thinker\.)?lm_head\.", "language_model.lm_head.", name)


export = pretrained.export


def load_processor(
    folder: Path, config: Any, options: LoadOptions, instruction: str | None
) -> Processor:
    """Load the processor of a folder, and apply the load options; None keeps a setting.

    Raises:
        UserError: It cannot be read or does not fit the model, or an option is for other models.
    """
    generation = GENERATIONS[config.model_type]
    options.refuse_others((*OPTIONS, "wording", "allow_pickle"), generation.title)
    hf_processor = pretrained.read_processor(folder, generation.processor)
    check_fit(folder, hf_processor, config)
    settings = pretrained.saved_settings(folder, default_settings(generation))
    changes: dict[str, Any] = {**options.prompt_text(instruction)}
    changes |= {name: vars(options)[name] for name in OPTIONS if vars(options)[name] is not None}
    settings = replace(settings, **changes)
    size = {"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels}
    hf_processor.video_processor.size = size  # for users who load the folder with transformers
    timing = layout.Timing(generation, config.position_id_per_seconds)
    processor = Processor(generation, hf_processor, settings, timing)
    for name in ("instruction", "question"):
        processor.check_text(vars(settings)[name], f"the model's {name}")
    return processor


def default_settings(generation: Generation) -> ProcessorSettings:
    """Return the sampling of frames if neither an option nor a checkpoint of ours sets it.

    transformers' default minimum size of a video would enlarge a face crop of 112 x 112 pixels to
    nine times its tokens; here a pair of frames has at least four tokens.
    """
    token = generation.factor**2
    return ProcessorSettings(
        fps=2.0, min_frames=4, max_frames=64, min_pixels=4 * token, max_pixels=768 * token
    )


def check_fit(folder: Path, processor: Any, config: Any) -> None:
    """Refuse a processor that was made for another model.

    Raises:
        UserError: A value differs; names the first one.
    """
    video, extractor = processor.video_processor, processor.feature_extractor
    vocabulary = processor.tokenizer.get_vocab()
    vision, sound = config.vision_config, config.audio_config
    rows = (
        ("patch_size", video.patch_size, vision.patch_size),
        ("temporal_patch_size", video.temporal_patch_size, vision.temporal_patch_size),
        ("merge_size", video.merge_size, vision.spatial_merge_size),
        ("feature_size", extractor.feature_size, sound.num_mel_bins),
        ("video_token", vocabulary.get(processor.video_token), config.video_token_id),
        ("audio_token", vocabulary.get(processor.audio_token), config.audio_token_id),
        ("audio_bos_token", vocabulary.get(processor.audio_bos_token), config.audio_start_token_id),
    )
    pretrained.check_fit(folder, rows)
    generation = GENERATIONS[config.model_type]
    if sound.n_window != generation.n_window:
        raise UserError(
            f"model.path={folder}: config.json has n_window={sound.n_window} for the audio tower, "
            f"but {generation.title} is supported only with {generation.n_window}"
        )
    frames_hz = extractor.sampling_rate / extractor.hop_length
    tokens_hz = generation.audio_tokens(round(1000 * frames_hz)) / 1000
    if config.position_id_per_seconds != tokens_hz:
        # transformers' default for a missing field is 25, also for models of 13 tokens a second
        raise UserError(
            f"model.path={folder}: config.json has position_id_per_seconds="
            f"{config.position_id_per_seconds}, but the sound has {tokens_hz:g} tokens a second: "
            "picture and sound would drift apart; set it to that number"
        )
