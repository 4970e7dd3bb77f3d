"""Join parts that were trained separately; ``loading/from_parts.py`` defines the parts."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    WhisperFeatureExtractor,
)

from omni_rlvr.models.adapters.peft_format import CONFIG as ADAPTER_CONFIG
from omni_rlvr.models.chat_template import CHAT_TEMPLATE
from omni_rlvr.models.composed.model import OmniConfig, OmniModel
from omni_rlvr.models.composed.processor import Processor, ProcessorSettings
from omni_rlvr.models.loading.from_parts import Parts
from omni_rlvr.models.loading.hub import find_checkpoint, show_downloads_only
from omni_rlvr.models.loading.untrusted import check_settings, one_error
from omni_rlvr.models.loading.weights import PICKLE_ADVICE
from omni_rlvr.types import UserError

JOINTS = (
    "video_projector", "video_merge", "audio_merge", "audio_pooling", "vision_select_layer"
)  # fmt: skip
"""Fields of ``Parts`` that are copied to the config."""


def join(parts: Parts, dtype: Any, *, allow_pickle: bool) -> OmniModel:
    """Build a model from parts, with their weights and a processor."""
    model = outline(parts)
    model.to(dtype)
    _fill(model, parts, allow_pickle=allow_pickle)
    return model


def outline(parts: Parts) -> Any:
    """Build a model from parts on the current device, with a processor and random weights."""
    config = OmniConfig(
        **{f"{name}_config": _config(parts, name) for name in ("vision", "audio", "text", "gate")},
        **{name: vars(parts)[name] for name in JOINTS},
    )
    model: Any = OmniModel(config)
    model.processor = _processor(model.config, parts)
    return model


_KEYS = {
    "vision": "vision_tower",
    "audio": "audio_tower",
    "text": "language_model",
    "gate": "gate_bert",
}


def _config(parts: Parts, name: str) -> Any:
    source = vars(parts)[_KEYS[name]]
    if source is None:
        return None
    config = _read(_KEYS[name], parts, AutoConfig)
    return config.vision_config if name == "vision" and "vision_config" in vars(config) else config


def _fill(model: OmniModel, parts: Parts, *, allow_pickle: bool) -> None:
    """Copy the parts' weights."""
    for key, own, kind in (
        ("vision_tower", model.vision_tower, type(model.vision_tower)),
        ("audio_tower", model.audio_tower, AutoModel),
        ("language_model", model.language_model, AutoModelForCausalLM),
        ("gate_bert", model.gate and model.gate.bert, AutoModel),
    ):
        if own is not None:
            part = _read_weights(key, parts, kind, allow_pickle=allow_pickle)
            if key == "audio_tower" and "encoder" in dict(part.named_children()):
                part = part.encoder
            own.load_state_dict(part.state_dict())


def _processor(config: OmniConfig, parts: Parts) -> Processor:
    tokenizer = _read("language_model", parts, AutoTokenizer)
    if tokenizer.eos_token is None:
        raise UserError(
            f"model.parts.language_model={parts.language_model}: tokenizer_config.json has no "
            "eos_token, which ends a completion"
        )
    tokenizer.chat_template = tokenizer.chat_template or CHAT_TEMPLATE
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return Processor(
        tokenizer=tokenizer,
        image_processor=_read("vision_tower", parts, AutoImageProcessor),
        feature_extractor=_read("audio_tower", parts, WhisperFeatureExtractor),
        settings=ProcessorSettings(
            num_frames=parts.num_frames,
            video_tokens=config.video_tokens(parts.num_frames),
            audio_tokens=config.audio_tokens,
            image_fit="pad",
            instruction="",
        ),
    ).checked()


def _read(key: str, parts: Parts, kind: Any) -> Any:
    """Read a part's config or processor; an error names the part."""
    source = f"model.parts.{key}={vars(parts)[key]}"
    folder = find_checkpoint(vars(parts)[key], allow_pickle=False)
    check_settings(folder, source)
    with one_error(f"{source} cannot be read"):
        return kind.from_pretrained(folder, trust_remote_code=False)


def _read_weights(key: str, parts: Parts, kind: Any, *, allow_pickle: bool) -> Any:
    """Read a part with its weights; an error names the part."""
    source = f"model.parts.{key}={vars(parts)[key]}"
    show_downloads_only()
    folder = find_checkpoint(vars(parts)[key], allow_pickle=allow_pickle)
    if (folder / ADAPTER_CONFIG).exists():
        raise UserError(f"{source} holds an adapter; merge it into its base with peft first")
    safe = any(folder.glob("*.safetensors"))
    if not safe and not allow_pickle and any(folder.glob("*.bin")):
        raise UserError(f"{source} holds pickled weights, which can hide code; {PICKLE_ADVICE}")
    with one_error(f"{source} cannot be read"):
        return kind.from_pretrained(folder, trust_remote_code=False, use_safetensors=safe)
