"""A Qwen-Omni thinker as a policy: its two towers and its language model, named as in this package.

    patches -> vision tower -+
    log-mel -> audio tower  -+-> prompt embeddings at their placeholders -> language model

The towers' outputs have the width of embeddings, so there is no projector. In Qwen3-Omni the vision
tower gives three more features for each token, which are added to the hidden states after the
language model's first three layers ("deepstack"). They are concatenated to the embeddings, so that
prefix sharing, packing and checkpointing need not handle them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from omni_rlvr.models.adapters.adapter_checkpoint import save_policy
from omni_rlvr.models.adapters.reference import frozen_copy
from omni_rlvr.models.loading.fingerprint import plain_config
from omni_rlvr.models.modules import frozen_parts
from omni_rlvr.models.policy import AdapterCheckpoint, embed_prompts
from omni_rlvr.models.qwen_omni.generations import GENERATIONS, Generation
from omni_rlvr.models.qwen_omni.processor import Processor
from omni_rlvr.models.trained_on import TrainedOn
from omni_rlvr.types import Batch, Features, Prompts, VideoShape

_TOWERS = r"(.*\.)?(visual|audio_tower)\..*"
"""The towers in transformers' thinker, whose layers have the same names (``q_proj``) as the
language model's."""


class WideEmbedding(nn.Module):
    """Token embeddings padded with zeros, since deepstack adds nothing to text tokens."""

    embedding: Any

    def __init__(self, embedding: nn.Embedding, num_more: int):
        super().__init__()
        self.embedding, self.num_more = embedding, num_more

    @property
    def weight(self) -> nn.Parameter:
        """The embeddings."""
        return self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Embed ids: [...] int64 -> [..., hidden + num_more]."""
        return nn.functional.pad(self.embedding(ids), (0, self.num_more))


class TextLayers(nn.Module):
    """The thinker's text model; its input is embeddings concatenated with deepstack features."""

    language_model: Any

    def __init__(self, language_model: nn.Module):
        super().__init__()
        self.language_model = language_model  # the name that it has in the thinker

    @property
    def config(self) -> PreTrainedConfig:
        """The text config, the same object that the layers hold."""
        return self.language_model.config

    def forward(self, inputs_embeds: Tensor, **arguments: Any) -> Any:
        """Run the layers over [B, L, hidden * (1 + num_deep)]."""
        first, *more = inputs_embeds.split(self.config.hidden_size, dim=-1)
        if more:
            everywhere = torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
            arguments["visual_pos_masks"] = everywhere
            arguments["deepstack_visual_embeds"] = [part.flatten(0, 1) for part in more]
        return self.language_model(inputs_embeds=first, **arguments)


class ThinkerLM(nn.Module):
    """The thinker's text model and head, as a causal LM for rollout and update.

    Its weights have the names that they have in transformers' thinker
    (``model.language_model.layers``, ``lm_head``), so that its adapters fit there too.

    Args:
        language_model: The thinker's text model.
        lm_head: The thinker's output head.
        num_deep: The number of layers after which deepstack adds features to picture tokens.
    """

    base_model_prefix = "model"
    """The thinker's own value, which peft reads."""

    def __init__(self, language_model: nn.Module, lm_head: nn.Module, num_deep: int):
        super().__init__()
        self.model, self.lm_head = TextLayers(language_model), lm_head
        self.num_deep = num_deep

    @property
    def config(self) -> PreTrainedConfig:
        """The text config."""
        return self.model.config

    @classmethod
    def is_backend_compatible(cls) -> bool:
        """Tell, as transformers' models do, that the attention function can be replaced."""
        return True

    def get_input_embeddings(self) -> WideEmbedding:
        """Return the token embeddings, padded to the width of a prompt's embeddings."""
        text: Any = self.model.language_model
        return WideEmbedding(text.embed_tokens, self.num_deep * self.config.hidden_size)

    def forward(self, **arguments: Any) -> Any:
        """Run the layers and the head."""
        hidden = self.model(**arguments).last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(hidden))


class QwenOmni(nn.Module):
    """The towers and the language model of a thinker."""

    places = {
        "vision_tower": "vision_tower",
        "audio_tower": "audio_tower",
        "language_model": "language_model",
    }
    processor: Processor
    adapter_checkpoint: AdapterCheckpoint | None = None
    trained_on: TrainedOn | None = None

    def __init__(self, thinker: Any):
        """Take the parts out of transformers' thinker, which is not needed afterwards."""
        super().__init__()
        self.config, self.generation_config = thinker.config, thinker.generation_config
        body = thinker.model
        self.vision_tower, self.audio_tower = body.visual, body.audio_tower
        num_deep = len(body.visual.config.to_dict().get("deepstack_visual_indexes") or ())
        self.language_model: Any = ThinkerLM(body.language_model, thinker.lm_head, num_deep)

    @property
    def generation(self) -> Generation:
        """The generation of the model: Qwen2.5-Omni or Qwen3-Omni."""
        return GENERATIONS[self.config.model_type]

    @property
    def never_trained(self) -> Sequence[str]:
        """Weights that do not affect any output and never get a gradient."""
        return self.generation.unused

    @property
    def lora_targets(self) -> Sequence[str]:
        """Suffixes of the linear layers that get adapters if the config names none."""
        return self.generation.lora_targets

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.language_model.get_input_embeddings().weight.dtype

    def forward(self, task: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``task(self, ...)``. Sharding hooks gather the weights around this ``forward``."""
        return task(self, *args, **kwargs)

    def train(self, mode: bool = True) -> QwenOmni:
        """Set train mode; frozen parts stay in eval mode."""
        super().train(mode)
        for part in frozen_parts(self):
            part.eval()
        return self

    def towers(self) -> dict[str, nn.Module]:
        """Return the "video" and the "audio" tower."""
        return {"video": self.vision_tower, "audio": self.audio_tower}

    def tower_config(self) -> dict[str, object]:
        """Return the towers' configs, as plain values."""
        vision, audio = self.config.vision_config, self.config.audio_config
        return {"vision_config": plain_config(vision), "audio_config": plain_config(audio)}

    def encode(self, batch: Batch) -> Features:
        """Run the towers clip by clip, so that no clip's features depend on its batch.

        Returns:
            For each clip, video [tokens, hidden * (1 + num_deep)] and audio [tokens, hidden].
        """
        pictures = zip(batch.pixel_values, batch.video_shapes, strict=True)
        video = [None if x is None or s is None else self._encode_video(x, s) for x, s in pictures]
        audio = [None if mel is None else self._encode_audio(mel) for mel in batch.input_features]
        return Features(video, audio)

    def _encode_video(self, patches: Tensor, shape: VideoShape) -> Tensor:
        assert shape.grid is not None
        steps, rows, columns = shape.grid
        merged = self.config.vision_config.spatial_merge_size
        grid = torch.tensor([[steps, rows * merged, columns * merged]], device=patches.device)
        out = self.vision_tower(patches.to(self.dtype), grid_thw=grid, return_dict=True)
        more = out.get("deepstack_features") or ()
        return torch.cat([out.pooler_output, *more], dim=-1)

    def _encode_audio(self, log_mel: Tensor) -> Tensor:
        size = torch.tensor([log_mel.shape[1]], device=log_mel.device)
        return self.audio_tower(log_mel.to(self.dtype), feature_lens=size).last_hidden_state

    def prompts(self, batch: Batch, features: Features) -> Prompts:
        """Embed prompts with the clips' features at their placeholders."""
        num_more = self.language_model.get_input_embeddings().num_more
        video = [clip for clip in features.video if clip is not None]
        # deepstack adds nothing to sound tokens
        audio = [nn.functional.pad(x, (0, num_more)) for x in features.audio if x is not None]
        return embed_prompts(
            self.language_model,
            batch,
            video=torch.cat(video) if video else None,
            audio=torch.cat(audio) if audio else None,
        )

    def frozen_copy(self) -> QwenOmni:
        """Copy what trains, share what does not, freeze the copy: the reference policy."""
        return frozen_copy(self)

    def save(self, folder: Path) -> None:
        """Write the thinker, in a folder that transformers reads as well, and the processor.

        With adapters, only the changes to the base are written; see ``adapter_checkpoint``.
        """
        save_policy(self, folder, self.thinker, excluded=_TOWERS)

    def thinker(self) -> Any:
        """Reassemble transformers' own model from the parts; it shares all weights."""
        with torch.device("meta"):
            thinker = self.generation.thinker(self.config)
        thinker.model.visual, thinker.model.audio_tower = self.vision_tower, self.audio_tower
        thinker.model.language_model = self.language_model.model.language_model
        thinker.lm_head = self.language_model.lm_head
        thinker.generation_config = self.generation_config
        return thinker.train(self.training)
