"""The omni model: a vision tower, an audio encoder and a causal LM joined by projectors.

    pixels  -> vision tower  -> video projector (weighed by the gate) -> prompt embeddings
    log-mel -> audio encoder -> merge k frames -> audio projector     -> at their placeholders -> LM

All parts are transformers classes; the tiny model and HumanOmni are two configs of this one class.
A prompt has placeholders only for the modalities of its clip. Towers and projectors run separately,
because frozen towers run once per prompt while projectors train. No sampling and no loss here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from omni_rlvr.models.adapters.adapter_checkpoint import save_policy
from omni_rlvr.models.adapters.reference import frozen_copy
from omni_rlvr.models.composed.processor import Processor
from omni_rlvr.models.composed.projectors import (
    InstructionGate,
    SlowFast,
    build_video_projector,
    compressed_tokens,
    mlp,
    needs_gate,
    tokens_per_frame,
)
from omni_rlvr.models.composed.towers import (
    build_audio_head,
    build_audio_tower,
    grid_side,
    patch_features,
)
from omni_rlvr.models.loading.config_file import GENERATION
from omni_rlvr.models.modules import frozen_parts
from omni_rlvr.models.policy import BLOCK_LAYERS, AdapterCheckpoint, embed_prompts
from omni_rlvr.models.trained_on import TrainedOn
from omni_rlvr.types import Batch, Features, Prompts, UserError, require

PART_TYPES = {
    "vision_config": "siglip_vision_model",
    "audio_config": "whisper",
    "text_config": "qwen2",
    "gate_config": "bert",
}
"""Part -> its ``model_type`` if the config does not give one."""
PLACES = {
    "vision_tower": "vision_tower",
    "audio_tower": "audio_tower",
    "audio_head": "audio_tower",
    "video_projector": "video_projector",
    "compressor": "video_projector",
    "audio_projector": "audio_projector",
    "gate": "gate",
    "gate.bert": "bert",
    "language_model": "language_model",
}
"""Name of a module in the model -> the part it belongs to; see ``models/modules.py``."""
_NOISE = {"_name_or_path", "transformers_version", "architectures", "text_config"}
"""Fields of the config that do not change a tower's features."""


class OmniConfig(PreTrainedConfig):
    """The parts of the model, their sizes, and how they are joined.

    Args:
        vision_config: Any transformers vision encoder.
        audio_config: Whisper, or any audio encoder that takes log-mel.
        text_config: Any transformers causal LM.
        gate_config: BERT of the instruction gate; with an ``all_in_one`` projector only.
        fields: How the parts are joined, see ``JOINTS``, and transformers' own fields.
    """

    model_type = "omni_rlvr"
    sub_configs = dict.fromkeys(PART_TYPES, AutoConfig)

    JOINTS = {
        "video_projector": "mlp2x_gelu",  # or all_in_one_small, all_in_one
        "video_merge": 1,  # m: m x m patches share a token of mlp2x_gelu
        "audio_merge": 1,  # k: neighbouring sound frames share a token
        "audio_pooling": "concat",  # how frames are merged: "concat" or "mean"
        "vision_select_layer": None,  # index of the hidden state used; None: the tower's output
        "gate_hidden_size": 3584,  # of the gate's MLP
        "compressor_size": None,  # of HumanOmni-7B's frame compressor; None: no compressor
        "audio_head": False,  # whether the weights have a classification head, which is not used
        "published": None,  # config.json and generation_config.json as published
    }

    def __init__(
        self,
        vision_config: PreTrainedConfig | dict | None = None,
        audio_config: PreTrainedConfig | dict | None = None,
        text_config: PreTrainedConfig | dict | None = None,
        gate_config: PreTrainedConfig | dict | None = None,
        **fields,
    ):
        self.vision_config: Any = _as_config(vision_config, "vision_config")
        self.audio_config: Any = _as_config(audio_config, "audio_config")
        self.text_config: Any = _as_config(text_config, "text_config")
        self.gate_config: Any = gate_config and _as_config(gate_config, "gate_config")
        for name, default in self.JOINTS.items():
            setattr(self, name, fields.pop(name, default))
        super().__init__(**fields)
        pooling = self.audio_pooling
        require(pooling in ("concat", "mean"), "audio_pooling", pooling, "concat or mean")
        if needs_gate(self.video_projector) != (self.gate_config is not None):
            raise UserError(
                f"config.json: video_projector={self.video_projector!r} and gate_config do not go "
                "together; the all_in_one projectors have a gate, mlp2x_gelu has none "
                "(model.parts.gate_bert, where parts are joined)"
            )

    @property
    def tokens_per_frame(self) -> int:
        """The number of prompt tokens of one frame."""
        side = grid_side(self.vision_config)
        return tokens_per_frame(self.video_projector, side, merge=self.video_merge)

    def video_tokens(self, num_frames: int) -> int:
        """Return the number of prompt tokens of a clip's frames."""
        if self.compressor_size is not None:
            return compressed_tokens(num_frames, self.tokens_per_frame)
        return num_frames * self.tokens_per_frame

    @property
    def audio_tokens(self) -> int:
        """The number of prompt tokens of a clip's sound."""
        return self.audio_config.max_source_positions // self.audio_merge


class OmniModel(PreTrainedModel):
    """Towers, projectors, gate and language model."""

    config_class = OmniConfig
    base_model_prefix = "omni"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules: list[str] = []
    _tied_weights_keys = {}
    config: OmniConfig
    processor: Processor
    adapter_checkpoint: AdapterCheckpoint | None = None
    trained_on: TrainedOn | None = None
    places = PLACES
    never_trained = ("audio_tower.embed_positions.weight",)
    """Whisper's sinusoidal positions, which are constant but stored as a weight."""
    lora_targets = BLOCK_LAYERS

    def __init__(self, config: OmniConfig):
        super().__init__(config)
        vision, audio, hidden = (
            config.vision_config,
            config.audio_config,
            config.text_config.hidden_size,
        )
        self.vision_tower = AutoModel.from_config(vision)
        self.audio_tower = build_audio_tower(audio)
        self.audio_head = build_audio_head(audio) if config.audio_head else None
        self.video_projector = build_video_projector(
            config.video_projector, vision.hidden_size, hidden, merge=config.video_merge
        )
        size = config.compressor_size
        self.compressor = None if size is None else SlowFast(hidden, size)
        merged = config.audio_merge if config.audio_pooling == "concat" else 1
        self.audio_projector = mlp(audio.hidden_size * merged, hidden)
        self.gate = None
        if config.gate_config is not None:
            self.gate = InstructionGate(config.gate_config, config.gate_hidden_size, dropout=False)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def forward(self, task: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``task(self, ...)``. Sharding hooks gather the weights around this ``forward``."""
        return task(self, *args, **kwargs)

    def train(self, mode: bool = True) -> OmniModel:
        """Set train mode; frozen parts stay in eval mode.

        A gate with dropout applies it while the policy trains, even if its BERT is frozen.
        """
        super().train(mode)
        for part in frozen_parts(self):
            part.eval()
        if self.gate is not None:
            self.gate.bert.train(mode and self.gate.dropout)
        return self

    def towers(self) -> dict[str, nn.Module]:
        """Return the "video" and the "audio" tower."""
        return {"video": self.vision_tower, "audio": self.audio_tower}

    def tower_config(self) -> dict[str, object]:
        """Return the config's fields without those of the language model, as plain values."""
        return _without_noise(self.config.to_dict())

    def encode(self, batch: Batch) -> Features:
        """Run the towers once, on all clips of the batch together.

        Returns:
            video [F, patches, D_video] and audio [frames, D_audio] of each clip, None where the
            batch has no pixels or no log-mel.
        """
        return Features(
            video=_in_one_stack(batch.pixel_values, self._encode_video),
            audio=_in_one_stack(batch.input_features, self._encode_audio),
        )

    def _encode_video(self, pixels: Tensor) -> Tensor:
        """Encode [Bv, F, 3, H, W] pixels to [Bv, F, patches, D]."""
        frames = pixels.flatten(0, 1).to(self.dtype)
        hidden = patch_features(self.vision_tower, frames, self.config.vision_select_layer)
        return hidden.unflatten(0, pixels.shape[:2])

    def _encode_audio(self, log_mel: Tensor) -> Tensor:
        """Encode [Ba, M, L] log-mel to [Ba, frames, D]."""
        return self.audio_tower(log_mel.to(self.dtype)).last_hidden_state

    def project_video(self, features: Tensor, weights: Tensor | None = None) -> Tensor:
        """Project [Bv, F, patches, D], with a gate's weights [Bv, 3], to [Bv, video_tokens,
        hidden].
        """
        inputs = (features,) if weights is None else (features, weights)
        tokens = self.video_projector(*inputs)
        return tokens if self.compressor is None else self.compressor(tokens, features.shape[1])

    def branch_weights(self, batch: Batch) -> Tensor | None:
        """Compute the gate's weights of the projector's branches from each video prompt's text.

        Returns:
            [Bv, 3], or None without a gate.
        """
        if self.gate is None:
            return None
        rows = zip(batch.examples, batch.video_shapes, batch.audio_shapes, strict=True)
        texts = [
            self.processor.gate_text(example.question, has_audio=audio is not None)
            for example, video, audio in rows
            if video is not None
        ]
        ids, mask = self.processor.gate_tokens(texts)
        device = batch.prompt_ids.device
        return self.gate(ids.to(device), mask.to(device))

    def project_audio(self, features: Tensor) -> Tensor:
        """Merge k neighbouring frames of [Ba, frames, D] and project them to [Ba, audio_tokens,
        hidden].
        """
        return self.audio_projector(self.merge_audio(features))

    def merge_audio(self, features: Tensor) -> Tensor:
        """Concatenate or average each k neighbouring frames of [Ba, frames, D]."""
        k = self.config.audio_merge
        num_tokens = features.shape[1] // k
        groups = features[:, : num_tokens * k].unflatten(1, (num_tokens, k))
        return groups.mean(dim=2) if self.config.audio_pooling == "mean" else groups.flatten(2)

    def prompts(self, batch: Batch, features: Features) -> Prompts:
        """Embed prompts with projected features at their placeholders."""
        has_pictures = any(clip is not None for clip in features.video)
        weights = self.branch_weights(batch) if has_pictures else None
        return self.prompts_with(batch, features, weights)

    def prompts_with(self, batch: Batch, features: Features, weights: Tensor | None) -> Prompts:
        """Embed prompts as ``prompts`` does, given the gate's weights [Bv, 3]; None without one."""
        video = audio = None
        if pictures := [clip for clip in features.video if clip is not None]:
            tokens = self.project_video(torch.stack(pictures), weights)
            video = tokens.flatten(0, 1)
        if sounds := [clip for clip in features.audio if clip is not None]:
            audio = self.project_audio(torch.stack(sounds)).flatten(0, 1)
        return embed_prompts(self.language_model, batch, video=video, audio=audio)

    def frozen_copy(self) -> OmniModel:
        """Copy what trains, share what does not, freeze the copy: the reference policy."""
        return frozen_copy(self)

    def save(self, folder: Path) -> None:
        """Write config, safetensors weights and processor; ``load_policy`` reads them back.

        With adapters, only the changes to the base are written; see ``adapter_checkpoint``.
        generation_config.json, and config.json next to adapters, are only for transformers.
        """
        save_policy(self, folder, lambda: self)
        if self.adapter_checkpoint is not None:
            self.config.save_pretrained(folder)
        fields = json.dumps(generation_fields(self.config, self.processor), indent=1)
        (folder / GENERATION).write_text(fields, encoding="utf-8")


def generation_fields(config: OmniConfig, processor: Processor) -> dict[str, Any]:
    """Return the fields of generation_config.json: the published ones and the end tokens."""
    published = (config.published or {"generation": {}})["generation"]
    ends = {"eos_token_id": processor.stop_ids, "pad_token_id": processor.pad_token_id}
    return {**published, **ends}


def _in_one_stack(
    clips: Sequence[Tensor | None], encode: Callable[[Tensor], Tensor]
) -> list[Tensor | None]:
    """Encode all clips in one stack, since clips of this family have one shape.

    Returns:
        One tensor a clip; None for a clip that is None.
    """
    there = [clip for clip in clips if clip is not None]
    made = iter(encode(torch.stack(there)).unbind(0) if there else ())
    return [None if clip is None else next(made) for clip in clips]


def _without_noise(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_noise(v) for k, v in value.items() if k not in _NOISE}
    return value


def _as_config(value: PreTrainedConfig | dict | None, part: str) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    return AutoConfig.for_model(**{"model_type": PART_TYPES[part], **(value or {})})
