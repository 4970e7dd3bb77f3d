"""Composes a policy of other parts: any transformers vision encoder, Whisper-type audio encoder and
causal LM, joined by new projectors.

The parts come with their weights, each from its own folder or hub id; projectors (and a gate's MLP)
start at random and are what a first stage has to train. Nothing in a part's folder is executed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    WhisperFeatureExtractor,
)

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.models.adapters.peft_format import CONFIG as ADAPTER_CONFIG
from omni_rlvr.models.chat_template import CHAT_TEMPLATE
from omni_rlvr.models.composed.model import OmniConfig, OmniModel
from omni_rlvr.models.composed.processor import Processor, ProcessorSettings
from omni_rlvr.models.loading.hub import find_checkpoint
from omni_rlvr.models.loading.load import DTYPES, finish, load_policy
from omni_rlvr.models.loading.untrusted import check_settings, one_error
from omni_rlvr.models.loading.weights import PICKLE_ADVICE
from omni_rlvr.types import UserError, require


@dataclass(frozen=True)
class Parts:
    """Where the parts come from, and how they are joined."""

    vision_tower: str
    """Folder or hub id of a vision encoder with its image processor."""
    audio_tower: str
    """Folder or hub id of a Whisper-type model with its feature extractor."""
    language_model: str
    """Folder or hub id of a causal LM with its tokenizer."""
    gate_bert: str | None
    """Folder or hub id of BERT; needed by the all_in_one projectors, and by them alone."""
    video_projector: str
    """mlp2x_gelu, all_in_one_small or all_in_one."""
    video_merge: int
    """m: m x m patches share a token of mlp2x_gelu."""
    audio_merge: int
    """k: neighbouring sound frames share a token."""
    audio_pooling: str
    """How they do: "mean", or "concat" side by side."""
    vision_select_layer: int | None
    """Hidden state that is read, e.g. -2; None is the tower's output."""
    num_frames: int
    """Frames sampled from a clip."""

    def __post_init__(self) -> None:
        for name in ("video_merge", "audio_merge", "num_frames"):
            require(vars(self)[name] >= 1, f"model.parts.{name}", vars(self)[name], "1 or more")


def compose_policy(
    path: str | None,
    dtype: str,
    instruction: str | None,
    parts: Parts,
    options: LoadOptions | None = None,
) -> OmniModel:
    """Composes a policy, or loads one that was composed and trained.

    Args:
        path: a checkpoint of ours; None composes anew.
        dtype: "float32", "bfloat16" or "float16".
        instruction: text after the question.
        parts: what to compose.
        options: what else is changed.

    Raises:
        UserError: a part cannot be read, or parts do not go together.
    """
    if path is not None:
        return load_policy(path, dtype, instruction, options)
    require(dtype in DTYPES, "model.dtype", dtype, f"one of {', '.join(DTYPES)}")
    config = OmniConfig(
        **{f"{name}_config": _config(parts, name) for name in ("vision", "audio", "text", "gate")},
        **{
            name: vars(parts)[name]
            for name in (
                "video_projector",
                "video_merge",
                "audio_merge",
                "audio_pooling",
                "vision_select_layer",
            )
        },
    )
    model: Any = OmniModel(config)
    model.to(DTYPES[dtype])
    options = options or LoadOptions()
    _fill(model, parts, allow_pickle=options.allow_pickle)
    model.processor = _processor(model.config, parts)
    folder = Path()
    if parts.gate_bert is not None:
        folder = find_checkpoint(parts.gate_bert, allow_pickle=options.allow_pickle)
        vocab = folder / "vocab.txt"
        if options.gate_vocab is None and vocab.exists():
            options = replace(options, gate_vocab=str(vocab))
    return finish(folder, model, options, instruction, is_new=True)


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
    """Copies the parts' weights."""
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
            f"model.parts.language_model={parts.language_model}: tokenizer_config.json names no "
            "eos_token, by which a completion ends"
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
    """Read a part's config or processor, or say which part cannot be read."""
    source = f"model.parts.{key}={vars(parts)[key]}"
    folder = find_checkpoint(vars(parts)[key], allow_pickle=False)
    check_settings(folder, source)
    with one_error(f"{source} cannot be read"):
        return kind.from_pretrained(folder, trust_remote_code=False)


def _read_weights(key: str, parts: Parts, kind: Any, *, allow_pickle: bool) -> Any:
    """Read a part with its weights, or say which part cannot be read."""
    source = f"model.parts.{key}={vars(parts)[key]}"
    folder = find_checkpoint(vars(parts)[key], allow_pickle=allow_pickle)
    if (folder / ADAPTER_CONFIG).exists():
        raise UserError(f"{source} holds an adapter; merge it into its base with peft first")
    safe = any(folder.glob("*.safetensors"))
    if not safe and not allow_pickle and any(folder.glob("*.bin")):
        raise UserError(f"{source} holds pickled weights, which can hide code; {PICKLE_ADVICE}")
    with one_error(f"{source} cannot be read"):
        return kind.from_pretrained(folder, trust_remote_code=False, use_safetensors=safe)
