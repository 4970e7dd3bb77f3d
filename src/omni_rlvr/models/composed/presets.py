"""Configs of the towers of published checkpoints, recognised by the shapes of their weights.

A published config.json names its towers by paths on someone's machine; the paths are never read. A
tower is recognised by the shapes of its weights; what shapes do not tell (number of heads,
epsilons) is in ``PRESETS``. A folder with towers of other sizes describes them in ``towers.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omni_rlvr.types import UserError

Shapes = Mapping[str, tuple[int, ...]]
TOWERS = "towers.json"
VISION, AUDIO, BERT = (
    "model.vision_tower.vision_tower.vision_model.",
    "model.audio_tower.audio_tower.",
    "model.bert_model.",
)
_SIGLIP = {"model_type": "siglip_vision_model", "num_channels": 3}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "vision": {
        "siglip-base-patch16-224": {
            **_SIGLIP,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 224,
            "patch_size": 16,
        },
        "siglip-so400m-patch14-384": {
            **_SIGLIP,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
    },
    "audio": {
        "whisper-large-v3": {
            "model_type": "whisper",
            "d_model": 1280,
            "encoder_ffn_dim": 5120,
            "encoder_layers": 32,
            "encoder_attention_heads": 20,
            "num_mel_bins": 128,
            "max_source_positions": 1500,
            "classifier_proj_size": 256,
            "dropout": 0.0,
        },
    },
    "bert": {"bert-base-uncased": {"model_type": "bert", "vocab_size": 30522}},
}
"""Part -> tower -> config fields; other fields have transformers' defaults."""
_PROBES = {
    "vision": (VISION, "embeddings.patch_embedding.weight", ("hidden_size", None, "patch_size")),
    "audio": (AUDIO, "encoder.conv1.weight", ("d_model", "num_mel_bins")),
    "bert": (BERT, "embeddings.word_embeddings.weight", ("vocab_size",)),
}
"""Part -> (prefix, the weight that identifies the tower, the config field of each of its sizes)."""


def find_towers(folder: Path, shapes: Shapes) -> dict[str, dict[str, Any]]:
    """Return the config fields of a published checkpoint's towers: "vision", "audio" and "bert".

    Raises:
        UserError: Weights of a tower are missing or of no known size, or towers.json is invalid.
    """
    if (folder / TOWERS).exists():
        return _read(folder / TOWERS)
    return {part: _recognise(folder, part, shapes) for part in PRESETS}


def is_preset(part: str, fields: Mapping[str, Any]) -> bool:
    """Tell whether a tower's config fields match a preset, so that no towers.json is needed."""
    return any(preset.items() <= dict(fields).items() for preset in PRESETS[part].values())


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        towers = json.loads(path.read_text(encoding="utf-8"))
        return {part: dict(towers[part]) for part in PRESETS}
    except (ValueError, KeyError, TypeError) as error:
        wanted = ", ".join(PRESETS)
        raise UserError(
            f"model.path={path.parent}: {TOWERS} must hold config fields of {wanted}: {error}"
        ) from error


def _recognise(folder: Path, part: str, shapes: Shapes) -> dict[str, Any]:
    prefix, weight, names = _PROBES[part]
    shape = shapes.get(prefix + weight)
    if shape is None:
        raise UserError(
            f"model.path={folder}: the weights have no {part} tower ({prefix}{weight} is missing); "
            "this checkpoint was saved without it; use the published one"
        )
    for preset in PRESETS[part].values():
        wanted = [preset[name] if name else size for name, size in zip(names, shape, strict=False)]
        if wanted == list(shape[: len(wanted)]):
            return preset
    raise UserError(
        f"model.path={folder}: {prefix}{weight} has shape {list(shape)}, which is none of "
        f"{', '.join(PRESETS[part])}; describe the towers in {folder / TOWERS}"
    )
