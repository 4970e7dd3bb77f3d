"""Write a policy in the layout in which HumanOmni and R1-Omni are published, for their code.

config.json is the published one, if there was one, with sizes and prompt settings updated and tower
paths replaced by the towers' names. Towers of other sizes are described in towers.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omni_rlvr.models.composed.model import OmniConfig, OmniModel
from omni_rlvr.models.composed.presets import PRESETS, TOWERS, is_preset
from omni_rlvr.models.composed.projectors import THREE_BRANCH
from omni_rlvr.models.composed.published_layout import (
    AUDIO_POOL,
    MODEL_TYPE,
    published_key,
)
from omni_rlvr.models.loading.config_file import GENERATION
from omni_rlvr.models.loading.weights import SINGLE, save_weights
from omni_rlvr.types import UserError

_PARTS = {"vision": "vision_config", "audio": "audio_config", "bert": "gate_config"}


def export_published(model: OmniModel, folder: Path) -> None:
    """Write weights, config, generation config and tokenizer.

    Raises:
        UserError: The model has parts that the published layout cannot hold.
        OSError: The folder cannot be written.
    """
    config = model.config
    fits = config.audio_pooling == "mean" and config.audio_merge == AUDIO_POOL
    if config.video_projector not in THREE_BRANCH or not fits:
        raise UserError(
            f"model: video_projector={config.video_projector!r}, "
            f"audio_pooling={config.audio_pooling!r} with audio_merge={config.audio_merge} is not "
            "HumanOmni's; use task.layout=omni"
        )
    folder.mkdir(parents=True, exist_ok=True)
    tied = config.text_config.tie_word_embeddings
    weights = {
        published_key(name): weight.contiguous()
        for name, weight in model.state_dict().items()
        if not (tied and name == "language_model.lm_head.weight")
    }
    # written under another name, then renamed: the weights may be memory-mapped from this file
    save_weights(weights, folder / f"{SINGLE}.part")
    (folder / f"{SINGLE}.part").replace(folder / SINGLE)
    published = config.published or {"config": {}, "generation": {}}
    fields = published["config"] | _fields(model)
    _write(folder / "config.json", fields)
    _write(folder / GENERATION, published["generation"])
    towers = {part: vars(config)[name].to_dict() for part, name in _PARTS.items()}
    if not all(is_preset(part, fields) for part, fields in towers.items()):
        _write(folder / TOWERS, towers)
    model.processor.tokenizer.save_pretrained(folder)


def _fields(model: OmniModel) -> dict[str, Any]:
    """Return the fields of config.json that the reference's code reads."""
    config: OmniConfig = model.config
    text = config.text_config
    return {
        **{
            name: vars(text)[name]
            for name in (
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "max_position_embeddings",
                "rms_norm_eps",
                "vocab_size",
                "tie_word_embeddings",
                "eos_token_id",
                "bos_token_id",
            )
        },
        "rope_theta": text.rope_parameters["rope_theta"],
        "architectures": ["HumanOmniQwen2ForCausalLM"],
        "model_type": MODEL_TYPE,
        "mm_projector_type": config.video_projector,
        "mm_audio_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": config.vision_select_layer,
        "mm_vision_select_feature": "patch",
        "mm_hidden_size": config.vision_config.hidden_size,
        "audio_hidden_size": config.audio_config.d_model,
        "mm_use_x_start_end": True,
        "mm_vision_tower": _name("vision", config.vision_config.to_dict()),
        "mm_audio_tower": _name("audio", config.audio_config.to_dict()),
        "num_frames": model.processor.settings.num_frames,
        "image_aspect_ratio": model.processor.settings.image_fit,
        "torch_dtype": str(model.dtype).removeprefix("torch."),
    }


def _name(part: str, fields: dict[str, Any]) -> str:
    """Name a tower as its release does; the reference looks for "siglip" or "whisper" in it."""
    presets = PRESETS[part]
    known = (name for name, preset in presets.items() if preset.items() <= fields.items())
    return next(known, next(iter(presets)))


def _write(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
