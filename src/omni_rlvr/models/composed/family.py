"""The functions that every model family provides, for composed models; see ``families.py``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultimodalLM,
    AutoProcessor,
    WhisperFeatureExtractor,
)

from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.models.composed import tiny as tiny_model
from omni_rlvr.models.composed.from_parts import join, outline
from omni_rlvr.models.composed.model import OmniConfig, OmniModel
from omni_rlvr.models.composed.processor_files import (
    changed_settings,
    check_tokens,
    load_processor,
    published_processor,
)
from omni_rlvr.models.composed.publish import export_published
from omni_rlvr.models.composed.published_layout import MODEL_TYPE, our_key
from omni_rlvr.models.composed.reading import is_published, read_config, read_model
from omni_rlvr.models.composed.tokenizers import load_gate_tokenizer
from omni_rlvr.models.encoding import Encoding, measure_encoding
from omni_rlvr.models.loading.config_file import SETTINGS, read_fields
from omni_rlvr.models.loading.from_parts import Parts
from omni_rlvr.models.loading.hub import find_checkpoint
from omni_rlvr.models.loading.pretrained import on_meta
from omni_rlvr.models.loading.weights import check_finite
from omni_rlvr.models.policy import Policy
from omni_rlvr.types import Batch, UserError

MODEL_TYPES = (OmniConfig.model_type, MODEL_TYPE)
RATE_OPTIONS = ("fps", "min_frames", "max_frames", "min_pixels", "max_pixels", "use_audio_in_video")
"""Options of models that sample frames at a rate and keep their proportions."""
GATE_OPTIONS = ("gate_vocab", "gate_text", "bert_dropout", "reset_gate")
TINY_TEXTS = ("How does this person feel?", "user", "assistant", "<think></think>", "happy sad")
"""What the tokenizer of ``tiny`` is trained on; it can spell any other text byte by byte."""


def load(
    folder: Path, dtype: torch.dtype, options: LoadOptions, instruction: str | None
) -> OmniModel:
    """Load a checkpoint in our layout, or in the published one of HumanOmni and R1-Omni."""
    fields = _fields(folder)
    model = read_model(folder, fields, dtype, allow_pickle=options.allow_pickle)
    _give_processor(folder, model, fields)
    model = _finish(folder, model, options, instruction, is_new=is_published(fields))
    check_finite(folder, model.named_parameters())
    return model


def skeleton(
    folder: Path, dtype: torch.dtype, options: LoadOptions, instruction: str | None
) -> OmniModel:
    """Build a checkpoint's model on the meta device."""
    fields = _fields(folder)
    config = read_config(folder, fields, allow_pickle=options.allow_pickle)
    with on_meta(dtype):
        model = OmniModel(config)
    _give_processor(folder, model, fields)
    return _finish(folder, model, options, instruction, is_new=False)


def encoding(policy: Policy, batch: Batch) -> Encoding:
    """Measure the encoding of a batch on the meta device, where the towers need only shapes."""
    return measure_encoding(policy, batch)


def _fields(folder: Path) -> dict[str, Any]:
    """Read config.json; refuse a folder without the processor's settings."""
    fields = read_fields(folder)
    if not is_published(fields) and not (folder / SETTINGS).exists():
        raise UserError(f"model.path={folder} is not a checkpoint: {SETTINGS} is missing")
    return fields


def _give_processor(folder: Path, model: OmniModel, fields: dict[str, Any]) -> None:
    if is_published(fields):
        model.processor = published_processor(folder, model.config, fields)
    else:
        model.processor = load_processor(folder)
        check_tokens(folder, model.config, model.processor.settings)


def tiny(seed: int, model_type: str) -> OmniModel:
    """Build the tiny model with random weights, scaled up so that the prompt matters.

    With transformers' initialisation, logits would hardly depend on the prompt.
    """
    assert model_type in MODEL_TYPES  # they differ only in their files
    processor = tiny_model.build_processor(tiny_model.train_tokenizer(TINY_TEXTS))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = tiny_model.build_tiny(processor)
    with torch.no_grad():
        for part in (model.language_model, model.video_projector, model.audio_projector):
            for weight in part.parameters():
                if weight.ndim == 2:
                    weight.mul_(3)
    return model.requires_grad_(False).eval()


def compose(
    parts: Parts, dtype: torch.dtype, options: LoadOptions, instruction: str | None
) -> OmniModel:
    """Join parts that were trained separately into a new policy."""
    model = join(parts, dtype, allow_pickle=options.allow_pickle)
    model = _composed(model, parts, options, instruction)
    check_finite(Path(), model.named_parameters())
    return model


def compose_skeleton(
    parts: Parts, dtype: torch.dtype, options: LoadOptions, instruction: str | None
) -> OmniModel:
    """Build the model that ``compose`` would build, on the meta device."""
    with torch.device("meta"):
        model = outline(parts)
    return _composed(model.to(dtype), parts, options, instruction)


def _composed(
    model: OmniModel, parts: Parts, options: LoadOptions, instruction: str | None
) -> OmniModel:
    """Finish a model made from parts; its gate uses the tokenizer of the BERT part."""
    folder = Path()
    if parts.gate_bert is not None:
        folder = find_checkpoint(parts.gate_bert, allow_pickle=options.allow_pickle)
        vocab = folder / "vocab.txt"
        if options.gate_vocab is None and vocab.exists():
            options = replace(options, gate_vocab=str(vocab))
    return _finish(folder, model, options, instruction, is_new=True)


def put_processor(
    policy: Policy, folder: Path, options: LoadOptions, instruction: str | None
) -> None:
    """Give a policy the processor that an adapter checkpoint was saved with.

    The gate's tokenizer stays the base's: adapters do not change BERT's input.
    """
    assert isinstance(policy, OmniModel)
    processor = load_processor(folder)
    settings = changed_settings(processor.settings, policy.config, options, instruction)
    policy.processor = replace(
        processor, settings=settings, gate_tokenizer=policy.processor.gate_tokenizer
    )


def sound_window_s(folder: Path | None) -> float:
    """Return the feature extractor's window in seconds; Whisper's own if none was saved."""
    saved = None if folder is None else folder / "feature_extractor"
    if saved is None or not saved.is_dir():
        return WhisperFeatureExtractor().chunk_length
    extractor = WhisperFeatureExtractor.from_pretrained(saved, trust_remote_code=False)
    return extractor.n_samples / extractor.sampling_rate


def time_axis(folder: Path, base: Path, options: LoadOptions) -> None:
    """Return None: positions count tokens in this family."""


def own_name(name: str) -> str:
    """Translate a weight's name from the published layout; other names stay as they are."""
    return our_key(name)


def export(policy: Policy, folder: Path, layout: str) -> None:
    """Write a policy in our layout ("omni"), or for HumanOmni's code ("humanomni")."""
    assert isinstance(policy, OmniModel)
    if layout == "humanomni":
        export_published(policy, folder)
    elif layout == "omni":
        policy.save(folder)
    else:
        raise UserError(f"task.layout={layout}: for this model, choose omni or humanomni")


def register_auto_classes() -> None:
    """Register the config, the model and the processor with transformers' Auto classes."""
    from omni_rlvr.models.composed.auto_classes import OmniForConditionalGeneration, OmniProcessor

    AutoConfig.register(OmniConfig.model_type, OmniConfig, exist_ok=True)
    for kind in (AutoModel, AutoModelForMultimodalLM):
        kind.register(OmniConfig, OmniForConditionalGeneration, exist_ok=True)
    AutoProcessor.register(OmniConfig, OmniProcessor, exist_ok=True)


def _finish(
    folder: Path,
    model: OmniModel,
    options: LoadOptions,
    instruction: str | None,
    *,
    is_new: bool,
) -> OmniModel:
    """Apply the load options to a model with a processor, and freeze it.

    Args:
        folder: The folder that may have the gate's vocabulary.
        model: A model that was read or composed.
        options: The options; a field that is None changes nothing.
        instruction: Text after the question; None keeps the processor's.
        is_new: Whether this package has not trained the model yet; only then a gate may be reset.

    Raises:
        UserError: An option does not apply to this model.
    """
    if given := [name for name in RATE_OPTIONS if vars(options)[name] is not None]:
        raise UserError(
            f"model.options.{given[0]} is for models that sample frames at a rate; this one takes "
            f"num_frames={model.processor.settings.num_frames}, each of one size"
        )
    settings = changed_settings(model.processor.settings, model.config, options, instruction)
    model.processor = replace(model.processor, settings=settings)
    if model.gate is not None:
        size = model.config.gate_config.vocab_size
        gate_tokenizer = load_gate_tokenizer(folder, options.gate_vocab, size=size)
        model.processor = replace(model.processor, gate_tokenizer=gate_tokenizer)
        model.gate.dropout = options.bert_dropout
        if options.reset_gate and is_new:
            model.gate.reset()
    elif given := [name for name in GATE_OPTIONS if vars(options)[name]]:
        raise UserError(
            f"model.options.{given[0]} is for models with an instruction gate; "
            f"model.path={folder} has none"
        )
    return model.requires_grad_(False).eval()
