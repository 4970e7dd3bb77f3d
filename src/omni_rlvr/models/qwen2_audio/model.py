"""Qwen2-Audio as a policy: a sound tower, a projector and a language model.

    log-mel -> audio tower -> audio projector -> prompt embeddings at their placeholders -> LM

All parts are those of transformers' model, which is taken apart here and reassembled for saving.
The language model is an ordinary causal LM whose positions count tokens, so that ``rollout=hf`` and
the fast path on CPUs can run it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Qwen2AudioForConditionalGeneration

from omni_rlvr.models.adapters.adapter_checkpoint import save_policy
from omni_rlvr.models.adapters.reference import frozen_copy
from omni_rlvr.models.loading.fingerprint import plain_config
from omni_rlvr.models.modules import frozen_parts
from omni_rlvr.models.policy import BLOCK_LAYERS, AdapterCheckpoint, embed_prompts
from omni_rlvr.models.qwen2_audio.processor import Processor
from omni_rlvr.models.trained_on import TrainedOn
from omni_rlvr.types import AudioShape, Batch, Features, Prompts


class Qwen2Audio(nn.Module):
    """The parts of transformers' model, under the names of this package."""

    places = {
        "audio_tower": "audio_tower",
        "audio_projector": "audio_projector",
        "language_model": "language_model",
    }
    processor: Processor
    adapter_checkpoint: AdapterCheckpoint | None = None
    trained_on: TrainedOn | None = None
    never_trained = ("audio_tower.embed_positions.weight",)
    """Whisper's sinusoidal positions, which are constant but stored as a weight."""
    lora_targets = BLOCK_LAYERS

    def __init__(self, model: Any):
        """Take transformers' model apart; it is not needed afterwards."""
        super().__init__()
        self.config, self.generation_config = model.config, model.generation_config
        parts = model.model
        self.audio_tower, self.audio_projector = parts.audio_tower, parts.multi_modal_projector
        with torch.device("meta"):  # its weights are replaced below
            self.language_model: Any = AutoModelForCausalLM.from_config(parts.language_model.config)
        self.language_model.model = parts.language_model
        self.language_model.lm_head = model.lm_head

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.language_model.lm_head.weight.dtype

    def forward(self, task: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``task(self, ...)``. Sharding hooks gather the weights around this ``forward``."""
        return task(self, *args, **kwargs)

    def train(self, mode: bool = True) -> Qwen2Audio:
        """Set train mode; frozen parts stay in eval mode."""
        super().train(mode)
        for part in frozen_parts(self):
            part.eval()
        return self

    def towers(self) -> dict[str, nn.Module]:
        """Return the "audio" tower, the only one."""
        return {"audio": self.audio_tower}

    def tower_config(self) -> dict[str, object]:
        """Return the tower's config, as plain values."""
        return {"audio_config": plain_config(self.config.audio_config)}

    def encode(self, batch: Batch) -> Features:
        """Run the tower sound by sound, so that features do not depend on the batch.

        Returns:
            video None and audio [tokens, D_audio] of each clip.
        """
        sounds = zip(batch.input_features, batch.audio_shapes, strict=True)
        audio = [None if x is None or s is None else self._encode_one(x, s) for x, s in sounds]
        return Features([None] * len(batch), audio)

    def _encode_one(self, log_mel: Tensor, shape: AudioShape) -> Tensor:
        """Encode [M, L] log-mel of the whole window to [tokens, D_audio] of the sound only."""
        assert shape.num_frames is not None
        num_states = self.config.audio_config.max_source_positions
        states = torch.arange(num_states, device=log_mel.device)
        # the second convolution halves the frames; mask the silence after the sound
        is_silence = states >= (shape.num_frames - 1) // 2 + 1
        mask = torch.zeros(num_states, dtype=self.dtype, device=log_mel.device)
        mask = mask.masked_fill(is_silence, torch.finfo(self.dtype).min)
        batch, mask = log_mel.to(self.dtype).unsqueeze(0), mask.view(1, 1, 1, -1)
        out = self.audio_tower(batch, attention_mask=mask).last_hidden_state
        return out[0, : shape.num_tokens]

    def prompts(self, batch: Batch, features: Features) -> Prompts:
        """Embed prompts with projected sounds at their placeholders."""
        sounds = [sound for sound in features.audio if sound is not None]
        audio = self.audio_projector(torch.cat(sounds).to(self.dtype)) if sounds else None
        return embed_prompts(self.language_model, batch, video=None, audio=audio)

    def frozen_copy(self) -> Qwen2Audio:
        """Copy what trains, share what does not, freeze the copy: the reference policy."""
        return frozen_copy(self)

    def save(self, folder: Path) -> None:
        """Write the model, in a folder that transformers reads as well, and the processor.

        With adapters, only the changes to the base are written; see ``adapter_checkpoint``.
        """
        save_policy(self, folder, self.whole)

    def whole(self) -> Any:
        """Reassemble transformers' own model from the parts; it shares all weights."""
        with torch.device("meta"):
            model = Qwen2AudioForConditionalGeneration(self.config)
        model.model.audio_tower = self.audio_tower
        model.model.multi_modal_projector = self.audio_projector
        model.model.language_model = self.language_model.model
        model.lm_head = self.language_model.lm_head
        model.generation_config = self.generation_config
        return model.train(self.training)
