"""Convert between our layout and the one in which R1-Omni and HumanOmni are published.

Key names differ only in their prefixes; config.json has the language model's sizes and how the
parts are joined. No code of a checkpoint is executed, and no path in its config is read.

Reference: HumanMLLM/R1-Omni, HumanMLLM/HumanOmni.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import Qwen2Config

from omni_rlvr.models.composed.model import OmniConfig
from omni_rlvr.models.composed.presets import AUDIO, BERT, VISION, Shapes, find_towers
from omni_rlvr.models.composed.processor import ProcessorSettings
from omni_rlvr.models.composed.projectors import needs_gate
from omni_rlvr.models.loading.config_file import GENERATION
from omni_rlvr.text.prompts import INSTRUCTION
from omni_rlvr.types import UserError

MODEL_TYPE = "HumanOmni_qwen2"
AUDIO_POOL = 3
"""Number of sound frames that are averaged to one token."""
COMPRESSOR = "model.feature_compressor."
GATE, GATE_WEIGHTS = "model.bert_gate.", ("0.weight", "0.bias", "2.weight", "2.bias")
LACKING = (
    "the checkpoint was saved without them or cut short: download it again, or copy them from the "
    "one that it was trained from"
)
"""What to do about missing weights."""
_PROJECTOR = "model.mm_projector."
PREFIXES = (
    (VISION, "vision_tower."),
    (f"{AUDIO}encoder.", "audio_tower."),
    (AUDIO, "audio_head."),
    (f"{_PROJECTOR}mlp_2xgelu_face.", "video_projector.face."),
    *(
        (f"{_PROJECTOR}{part}_{branch}.", f"video_projector.{branch}.{part}.")
        for branch in ("video", "body")
        for part in ("s1", "sampler", "s2", "readout")
    ),
    (_PROJECTOR, "video_projector."),
    ("model.audio_projector.", "audio_projector."),
    (COMPRESSOR, "compressor."),
    (BERT, "gate.bert."),
    (GATE, "gate.head."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", "language_model.model."),
)
"""(published prefix, our prefix); the first match applies."""


def our_key(name: str) -> str:
    """Translate a published weight's name to ours; other names stay as they are."""
    return _swap(name, PREFIXES)


def published_key(name: str) -> str:
    """Translate one of our weights' names to the published one."""
    return _swap(name, tuple((ours, theirs) for theirs, ours in PREFIXES))


def read_config(folder: Path, fields: Mapping[str, Any], shapes: Shapes) -> OmniConfig:
    """Make our config from a published one and the weights' shapes.

    Args:
        folder: The checkpoint.
        fields: Its config.json.
        shapes: Published name -> shape of each weight.

    Raises:
        UserError: A field is missing, or the towers are unknown.
    """
    needed = ("num_frames", "mm_projector_type", "mm_vision_select_layer", "hidden_size")
    for name in needed:
        if name not in fields:
            raise UserError(f"model.path={folder}: config.json has no field {name!r}")
    towers = find_towers(folder, shapes)
    gate = _gate_size(folder, fields["mm_projector_type"], shapes)
    compressor = shapes.get(f"{COMPRESSOR}vlm_query_projector.weight")
    return OmniConfig(
        vision_config=towers["vision"],
        audio_config=towers["audio"],
        text_config=_text_config(fields),
        gate_config=towers["bert"] if gate is not None else None,
        video_projector=fields["mm_projector_type"],
        vision_select_layer=fields["mm_vision_select_layer"],
        audio_merge=AUDIO_POOL,
        audio_pooling="mean",
        gate_hidden_size=1 if gate is None else gate,
        compressor_size=compressor[0] if compressor else None,
        audio_head=f"{AUDIO}projector.weight" in shapes,
        published={"config": dict(fields), "generation": _generation(folder)},
    )


def _gate_size(folder: Path, projector: str, shapes: Shapes) -> int | None:
    """Return the hidden size of the gate's MLP; None for a projector without a gate.

    Raises:
        UserError: The projector needs a gate, and the weights lack it.
    """
    if not needs_gate(projector):
        return None
    missing = [f"{GATE}{name}" for name in GATE_WEIGHTS if f"{GATE}{name}" not in shapes]
    if missing:
        raise UserError(
            f"model.path={folder}: the weights lack the gate of mm_projector_type={projector!r}, "
            f"missing ({len(missing)}): {', '.join(missing)}; {LACKING}"
        )
    return shapes[f"{GATE}0.bias"][0]


def read_settings(config: OmniConfig, num_frames: int) -> ProcessorSettings:
    """Return the prompt settings of a published checkpoint.

    R1-Omni's deviations during training (``stray_vision_tokens``, ``mask_stops``) are options.
    """
    return ProcessorSettings(
        num_frames=num_frames,
        video_tokens=config.video_tokens(num_frames),
        audio_tokens=config.audio_tokens,
        image_fit="pad",
        instruction=INSTRUCTION,
        image_backend="pil",
        video_start="<vi_start>",
        video_end="<vi_end>",
        audio_start="<au_start>",
        audio_end="<au_end>",
        media_separator="\n",
        media_end="\n",
        stop_ids=_stop_ids(config),
    )


def _stop_ids(config: OmniConfig) -> list[int]:
    """List the end tokens of generation_config.json except the chat's end token."""
    generation = (config.published or {"generation": {}})["generation"]
    ends = generation.get("eos_token_id", [])
    listed = ends if isinstance(ends, list) else [ends]
    return [end for end in listed if end != config.text_config.eos_token_id]


def _text_config(fields: Mapping[str, Any]) -> Qwen2Config:
    """Select the language model's fields; the others are HumanOmni's."""
    theirs = ("mm_", "audio_", "tune_", "use_mm_", "tokenizer_", "freeze_", "image_", "_name")
    others = ("architectures", "model_type", "torch_dtype", "dtype", "transformers_version")
    kept = {
        name: value
        for name, value in fields.items()
        if not name.startswith(theirs) and name not in (*others, "num_frames", "hyper_layers")
    }
    return Qwen2Config(**kept)


def _generation(folder: Path) -> dict[str, Any]:
    path = folder / GENERATION
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _swap(name: str, prefixes: tuple[tuple[str, str], ...]) -> str:
    for old, new in prefixes:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
