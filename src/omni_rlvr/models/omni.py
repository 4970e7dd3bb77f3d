"""The omni model: a vision tower, an audio encoder and a causal LM joined by projectors.

    pixels  -> vision tower  -> merge m x m patches -> MLP -> prompt embeddings
    log-mel -> audio encoder -> merge k frames      -> MLP -> at their placeholders -> causal LM

All parts are transformers classes. A prompt holds only the modalities that are there. Towers are
encoded apart from projectors, because frozen towers run once per prompt and projectors train. No
sampling and no loss here.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from omni_rlvr.models.prefix import completion_logits
from omni_rlvr.models.processing import Processor
from omni_rlvr.types import Batch, Features


class OmniConfig(PreTrainedConfig):
    """Sizes of the parts; ``video_merge`` and ``audio_merge`` say how many neighbours share a
    token.
    """

    model_type = "omni_rlvr"
    sub_configs = {
        "vision_config": SiglipVisionConfig,
        "audio_config": WhisperConfig,
        "text_config": AutoConfig,
    }

    def __init__(
        self,
        vision_config: SiglipVisionConfig | dict | None = None,
        audio_config: WhisperConfig | dict | None = None,
        text_config: PreTrainedConfig | dict | None = None,
        video_merge: int = 1,
        audio_merge: int = 1,
        **framework_fields,
    ):
        self.vision_config: Any = _as_config(vision_config, "siglip_vision_model")
        self.audio_config: Any = _as_config(audio_config, "whisper")
        self.text_config: Any = _as_config(text_config, "qwen2")
        self.video_merge = video_merge
        self.audio_merge = audio_merge
        super().__init__(**framework_fields)


class OmniModel(PreTrainedModel):
    """Towers, projectors and language model."""

    config_class = OmniConfig
    base_model_prefix = "omni"
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules: list[str] = []
    _tied_weights_keys = {}
    processor: Processor

    def __init__(self, config: OmniConfig):
        super().__init__(config)
        hidden = config.text_config.hidden_size
        self.vision_tower = SiglipVisionModel(config.vision_config)
        self.audio_tower = WhisperEncoder(config.audio_config)
        self.video_projector = _mlp(
            config.vision_config.hidden_size * config.video_merge**2, hidden
        )
        self.audio_projector = _mlp(config.audio_config.d_model * config.audio_merge, hidden)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def train(self, mode: bool = True) -> OmniModel:
        """Switches projectors and LM; the frozen towers stay in eval mode."""
        super().train(mode)
        self.vision_tower.eval()
        self.audio_tower.eval()
        return self

    def encode(self, batch: Batch) -> Features:
        """Runs the towers once on every clip of the batch.

        Returns:
            video [Bv, F, patches, D_video] and audio [Ba, frames, D_audio], None where the batch
            has none.
        """
        video = audio = None
        if batch.pixel_values is not None:
            num_clips, num_frames = batch.pixel_values.shape[:2]
            pixels = batch.pixel_values.flatten(0, 1).to(self.dtype)
            hidden = self.vision_tower(pixel_values=pixels).last_hidden_state
            video = hidden.unflatten(0, (num_clips, num_frames))
        if batch.input_features is not None:
            audio = self.audio_tower(batch.input_features.to(self.dtype)).last_hidden_state
        return Features(video=video, audio=audio)

    def project_video(self, features: Tensor) -> Tensor:
        """Merges m x m patches of [Bv, F, patches, D] and projects them to [Bv, video_tokens,
        hidden].
        """
        num_clips, num_frames, patches, width = features.shape
        side, m = round(patches**0.5), self.config.video_merge
        grid = features.view(num_clips, num_frames, side // m, m, side // m, m, width)
        merged = grid.permute(0, 1, 2, 4, 3, 5, 6).reshape(num_clips, -1, m * m * width)
        return self.video_projector(merged)

    def project_audio(self, features: Tensor) -> Tensor:
        """Merges k neighbouring frames of [Ba, frames, D] and projects them to [Ba, audio_tokens,
        hidden].
        """
        num_clips, num_frames, width = features.shape
        k = self.config.audio_merge
        merged = features[:, : num_frames // k * k].reshape(num_clips, num_frames // k, k * width)
        return self.audio_projector(merged)

    def embed(self, batch: Batch, features: Features) -> Tensor:
        """Embeds prompts ([B, P, hidden]) with projected features at their placeholders."""
        ids = batch.prompt_ids
        embeds = self.language_model.get_input_embeddings()(ids)
        if features.video is not None:
            tokens = self.project_video(features.video)
            embeds = embeds.masked_scatter(
                (ids == self.processor.video_id).unsqueeze(-1), tokens.to(embeds.dtype)
            )
        if features.audio is not None:
            tokens = self.project_audio(features.audio)
            embeds = embeds.masked_scatter(
                (ids == self.processor.audio_id).unsqueeze(-1), tokens.to(embeds.dtype)
            )
        return embeds

    def completion_logits(
        self,
        prompt_embeds: Tensor,
        prompt_mask: Tensor,
        prompt_index: Tensor,
        completion_ids: Tensor,
        completion_mask: Tensor,
    ) -> Tensor:
        """Computes the logits that predict each completion token, [N, T, V]; see ``prefix``."""
        return completion_logits(
            self.language_model,
            prompt_embeds,
            prompt_mask,
            prompt_index,
            completion_ids,
            completion_mask,
        )

    def frozen_copy(self) -> OmniModel:
        """Copies projectors and LM, shares the towers, freezes the copy: the reference policy."""
        shared = {id(part): part for part in (self.vision_tower, self.audio_tower)}
        twin = copy.deepcopy(self, {**shared, id(self.processor): self.processor})
        for part in (twin.video_projector, twin.audio_projector, twin.language_model):
            part.requires_grad_(False).eval()
        return twin

    def save(self, folder: Path) -> None:
        """Writes config, safetensors weights and processor; ``load_policy`` reads it back."""
        try:
            self.save_pretrained(folder)
        except SafetensorError as error:  # its word for a full disk
            raise OSError(f"cannot write {folder}: {error}") from error
        self.processor.save(folder)


def _mlp(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))


def _as_config(value: PreTrainedConfig | dict | None, model_type: str) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    return AutoConfig.for_model(**{"model_type": model_type, **(value or {})})
