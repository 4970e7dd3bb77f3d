"""A tiny HumanOmni: all its parts, few weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig, Qwen2Config, SiglipVisionConfig, WhisperConfig

from omni_rlvr.config.trainable import TrainableConfig
from omni_rlvr.models.adapters.trainable import apply
from omni_rlvr.models.composed import tiny
from omni_rlvr.models.composed.model import OmniConfig, OmniModel
from omni_rlvr.models.composed.processor import Processor
from omni_rlvr.models.composed.processor_files import media_processors
from omni_rlvr.models.composed.published_layout import AUDIO_POOL, read_settings
from omni_rlvr.models.composed.tokenizers import load_gate_tokenizer

SIZES = {"intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}


def build_humanomni() -> OmniModel:
    """4 x 4 patches, 2 frames: 2 * 2 * 2 = 8 video tokens; 1 s of sound: 50 // 3 = 16 tokens."""
    tokenizer = tiny.train_tokenizer(["How does this person feel?", "user", "assistant"])
    config = OmniConfig(
        vision_config=SiglipVisionConfig(hidden_size=16, image_size=32, patch_size=8, **SIZES),
        audio_config=WhisperConfig(
            d_model=16,
            encoder_ffn_dim=32,
            encoder_layers=2,
            encoder_attention_heads=2,
            max_source_positions=50,
            classifier_proj_size=8,
            dropout=0.0,
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            **SIZES,
        ),
        gate_config=BertConfig(vocab_size=30522, hidden_size=16, **SIZES),
        video_projector="all_in_one_small",
        vision_select_layer=-2,
        audio_merge=AUDIO_POOL,
        audio_pooling="mean",
        gate_hidden_size=24,
        audio_head=True,
    )
    torch.manual_seed(0)
    model = OmniModel(config)
    with torch.no_grad():
        for weight in model.parameters():  # what a prompt holds moves its logits
            if weight.ndim >= 2:
                weight.mul_(3)
    image, sound = media_processors(32, num_mel_bins=80, window_s=1)
    gate_tokenizer = load_gate_tokenizer(Path(), None, size=30522)
    settings = read_settings(config, num_frames=2)
    model.processor = Processor(tokenizer, image, sound, settings, gate_tokenizer)
    apply(model, TrainableConfig(), None)
    return model.eval()
