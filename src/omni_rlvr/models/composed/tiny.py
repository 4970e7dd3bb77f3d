"""Build the tiny omni model with random weights: its sizes, its tokenizer and its processor.

``experiments/tiny_base`` uses it to train the base weights in ``models/tiny_base``, and tests use
it; runs load that folder. The tokenizer is a byte-level BPE with a chat template and can encode any
text.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipImageProcessor,
    SiglipVisionConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from omni_rlvr.models.chat_template import TURNS
from omni_rlvr.models.composed.model import OmniConfig, OmniModel
from omni_rlvr.models.composed.processor import Processor, ProcessorSettings

VOCAB_SIZE = 640
IMAGE_SIZE, PATCH_SIZE, VIDEO_MERGE, NUM_FRAMES = 64, 8, 4, 4
SOUND_S, MEL_BINS, AUDIO_MERGE = 2, 80, 4
SPECIAL_TOKENS = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|video|>", "<|audio|>")


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of ``VOCAB_SIZE`` tokens on texts."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        chat_template=TURNS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Processor:
    """Build the tiny model's processor around its tokenizer."""
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    window = WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=SOUND_S)
    settings = ProcessorSettings(
        num_frames=NUM_FRAMES,
        video_tokens=NUM_FRAMES * (IMAGE_SIZE // PATCH_SIZE // VIDEO_MERGE) ** 2,
        audio_tokens=window.nb_max_frames // 2 // AUDIO_MERGE,
        image_fit="pad",
        instruction="",
    )
    return Processor(tokenizer, SiglipImageProcessor(size=size), window, settings)


def build_tiny(processor: Processor) -> OmniModel:
    """Build the tiny omni model (about 2.2 M weights) with random weights."""
    tokenizer = processor.tokenizer
    config = OmniConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=96,
            intermediate_size=288,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            vision_use_head=False,
        ),
        audio_config=WhisperConfig(
            d_model=96,
            encoder_ffn_dim=288,
            encoder_layers=3,
            encoder_attention_heads=4,
            num_mel_bins=MEL_BINS,
            max_source_positions=SOUND_S * 50,
            dropout=0.0,
        ),
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=160,
            intermediate_size=432,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        ),
        video_merge=VIDEO_MERGE,
        audio_merge=AUDIO_MERGE,
    )
    model = OmniModel(config)
    model.processor = processor
    return model
