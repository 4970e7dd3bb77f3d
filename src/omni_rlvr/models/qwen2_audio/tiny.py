"""A tiny Qwen2-Audio with random weights, a byte tokenizer and a window of 4 s."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from omni_rlvr.models.chat_template import TURNS
from omni_rlvr.models.qwen2_audio.model import Qwen2Audio
from omni_rlvr.models.qwen2_audio.processor import Processor, ProcessorSettings
from omni_rlvr.models.tokenizing import byte_tokenizer

_WINDOW_S = 4
_NAMES = {
    "audio_token": "<|AUDIO|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}


def build_tiny(seed: int) -> Qwen2Audio:
    """Build a tiny model, with weights scaled up so that the sound affects the logits."""
    tokenizer = byte_tokenizer(_NAMES)
    kind: Any = Qwen2AudioConfig
    config = kind(
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "d_model": 48,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "num_mel_bins": 128,
            "max_source_positions": 50 * _WINDOW_S,
        },
        audio_token_index=tokenizer.get_vocab()[_NAMES["audio_token"]],
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = Qwen2AudioForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim >= 2 and "embed" not in name:
                weight.mul_(4)
    policy = Qwen2Audio(model)
    hf_processor = Qwen2AudioProcessor(
        feature_extractor=WhisperFeatureExtractor(
            feature_size=128, chunk_length=_WINDOW_S, return_attention_mask=True
        ),
        tokenizer=tokenizer,
        chat_template=TURNS,
    )
    policy.processor = Processor(hf_processor, ProcessorSettings())
    return policy.requires_grad_(False).eval()
