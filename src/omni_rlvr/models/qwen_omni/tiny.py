"""Tiny thinkers of both generations, with random weights and a byte tokenizer.

All sizes are small except those that positions and token counts depend on: patches, merging, 128
mel bins, the audio tower's window, and the sections of rotary positions, which sum to half a head's
width.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeThinkerConfig,
    WhisperFeatureExtractor,
)

from omni_rlvr.models.chat_template import TURNS
from omni_rlvr.models.qwen_omni.generations import QWEN2_5, Generation
from omni_rlvr.models.qwen_omni.layout import Timing
from omni_rlvr.models.qwen_omni.model import QwenOmni
from omni_rlvr.models.qwen_omni.processor import Processor, ProcessorSettings
from omni_rlvr.models.tokenizing import byte_tokenizer

_WINDOW_S = 8
_NAMES = ("image_token", "audio_token", "video_token", "vision_bos_token", "vision_eos_token",
          "audio_bos_token", "audio_eos_token")  # fmt: skip
_TOKENS_2_5 = ("IMAGE", "AUDIO", "VIDEO", "vision_bos", "vision_eos", "audio_bos", "audio_eos")
_TOKENS_3 = ("image_pad", "audio_pad", "video_pad", "vision_start", "vision_end", "audio_start",
             "audio_end")  # fmt: skip


def build_tiny(generation: Generation, seed: int) -> QwenOmni:
    """Build a tiny model, with weights scaled up so that the clip affects the logits."""
    processor = _processor(generation)
    ids = {
        name: processor.tokenizer.get_vocab()[vars(processor.hf_processor)[name]] for name in _NAMES
    }
    config = (_config_2_5 if generation is QWEN2_5 else _config_3)(processor.tokenizer, ids)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        thinker = generation.thinker(config)
    with torch.no_grad():
        for name, weight in thinker.named_parameters():
            if weight.ndim >= 2 and "embed" not in name:
                weight.mul_(4)
    policy = QwenOmni(thinker)
    policy.processor = processor
    return policy.requires_grad_(False).eval()


def _processor(generation: Generation) -> Processor:
    tokens = _TOKENS_2_5 if generation is QWEN2_5 else _TOKENS_3
    names = {name: f"<|{token}|>" for name, token in zip(_NAMES, tokens, strict=True)}
    size, patch = generation.factor, generation.factor // 2
    limits = {"shortest_edge": 4 * size**2, "longest_edge": 16 * size**2}
    hf_processor = generation.processor(
        image_processor=Qwen2VLImageProcessor(patch_size=patch),
        video_processor=Qwen2VLVideoProcessor(patch_size=patch, size=limits),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=128, chunk_length=_WINDOW_S, return_attention_mask=True
        ),
        tokenizer=byte_tokenizer(names),
        chat_template=TURNS,
    )
    settings = ProcessorSettings(
        fps=2.0,
        min_frames=4,
        max_frames=16,
        min_pixels=limits["shortest_edge"],
        max_pixels=limits["longest_edge"],
    )
    timing = Timing(generation, 25 if generation is QWEN2_5 else 13)
    return Processor(generation, hf_processor, settings, timing)


def _text(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


_VISION = {
    "hidden_size": 64,
    "num_heads": 4,
    "intermediate_size": 96,
    "out_hidden_size": 64,
}
_AUDIO = {
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "num_mel_bins": 128,
    "output_dim": 64,
}


def _config_2_5(tokenizer: Any, ids: dict[str, int]) -> Any:
    kind: Any = Qwen2_5OmniThinkerConfig  # some of these are not fields of the class
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    return kind(
        text_config={**_text(tokenizer), "num_hidden_layers": 3, "tie_word_embeddings": False,
                     "rope_parameters": rope},
        vision_config={**_VISION, "depth": 3, "patch_size": 14, "window_size": 56,
                       "fullatt_block_indexes": [1]},
        audio_config={**_AUDIO, "n_window": 100},
        audio_token_index=ids["audio_token"],
        image_token_index=ids["image_token"],
        video_token_index=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        # used by transformers' own positions
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
        position_id_per_seconds=25,
        seconds_per_chunk=2,
        tie_word_embeddings=False,
    )  # fmt: skip


def _config_3(tokenizer: Any, ids: dict[str, int]) -> Any:
    kind: Any = Qwen3OmniMoeThinkerConfig
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2],
            "mrope_interleaved": True}  # fmt: skip
    return kind(
        text_config={**_text(tokenizer), "num_hidden_layers": 4, "head_dim": 16, "num_experts": 4,
                     "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True,
                     "rope_parameters": rope},
        vision_config={**_VISION, "depth": 4, "patch_size": 16, "num_position_embeddings": 64,
                       "deepstack_visual_indexes": [0, 1, 2]},
        audio_config={**_AUDIO, "n_window": 50, "n_window_infer": 200,
                      "downsample_hidden_size": 32},
        audio_token_id=ids["audio_token"],
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
        position_id_per_seconds=13,
        tie_word_embeddings=False,
    )  # fmt: skip
