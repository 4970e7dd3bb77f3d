"""Loads a policy from a checkpoint, with an error that says what is wrong with a folder that is
none.

Two layouts are read: what ``OmniModel.save`` writes, and what HumanOmni and R1-Omni published.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoImageProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    WhisperFeatureExtractor,
)

from omni_rlvr import distributed
from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.folders import SUMS, check_sums
from omni_rlvr.models.adapters.adapter_checkpoint import find_base, is_delta, restore_delta
from omni_rlvr.models.adapters.bare_adapter import find_bare_base, put_bare
from omni_rlvr.models.adapters.peft_format import is_bare_adapter
from omni_rlvr.models.composed import published_layout
from omni_rlvr.models.composed.model import OmniConfig, OmniModel
from omni_rlvr.models.composed.processor import SETTINGS, Processor, ProcessorSettings
from omni_rlvr.models.loading.hub import check_pointers, find_checkpoint
from omni_rlvr.models.loading.layouts import is_published, read_fields, read_model
from omni_rlvr.models.loading.tokenizers import load_gate_tokenizer, load_tokenizer
from omni_rlvr.models.loading.untrusted import check_settings, one_error
from omni_rlvr.models.loading.weights import check_finite, check_pointer
from omni_rlvr.pointers import TRAINER_STATE, follow, whole_before
from omni_rlvr.text.prompts import WORDINGS
from omni_rlvr.types import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GATE_OPTIONS = ("gate_vocab", "gate_text", "bert_dropout", "reset_gate")
FRAMES_PER_SECOND = 50
"""Of a Whisper encoder's output."""


def load_policy(
    path: str, dtype: str, instruction: str | None, options: LoadOptions | None = None
) -> OmniModel:
    """Loads a checkpoint of ours, or HumanOmni's and R1-Omni's as they were published.

    One with adapters is put onto its base.

    Args:
        path: a checkpoint folder, or an id on the Hugging Face hub.
        dtype: "float32", "bfloat16" or "float16".
        instruction: text after the question; None keeps what the checkpoint was trained with.
        options: what else is changed; None changes nothing.

    Returns:
        The policy in eval mode, on the CPU, all of it frozen; ``trainable.apply`` says what trains.

    Raises:
        UserError: the folder is no checkpoint, or its weights do not fit its config.
    """
    if dtype not in DTYPES:
        raise UserError(f"model.dtype={dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    options = options or LoadOptions()
    given = follow(Path(path))
    check_pointers(given)  # before their checksums: it says more
    check_written(given)
    if is_delta(given):
        base = find_base(given, None)
        policy = load_policy(str(base), dtype, None, options)
        put_onto(policy, base, given, options, instruction)
        return policy
    folder = find_checkpoint(path, allow_pickle=options.allow_pickle)
    if is_bare_adapter(folder):
        return load_bare(folder, None, dtype, instruction, options)
    fields = read_fields(folder)
    model = read_model(folder, fields, DTYPES[dtype], allow_pickle=options.allow_pickle)
    if is_published(fields):
        processor = published_processor(folder, model.config, fields)
    else:
        processor = load_processor(folder)
        _check_tokens(folder, model.config, processor.settings)
    model.processor = processor
    return finish(folder, model, options, instruction, is_new=is_published(fields))


def check_written(folder: Path) -> None:
    """Refuse a checkpoint of ours whose files have changed since they were written.

    Raises:
        UserError: names the file, and another checkpoint of the same run that is whole.
    """
    if not distributed.is_first() or not folder.is_dir():
        return
    wrong = check_sums(folder, but=(TRAINER_STATE,))
    if wrong is not None:
        other = whole_before(folder)
        hint = f"model.path={other} is whole" if other else "copy it again from where it was made"
        raise UserError(
            f"model.path={folder}: {wrong}; {hint}, or delete {SUMS} there if you changed it"
        )


def load_bare(
    folder: Path, base: str | None, dtype: str, instruction: str | None, options: LoadOptions
) -> OmniModel:
    """Load an adapter folder of peft's own with its base.

    Args:
        folder: with adapter_config.json.
        base: where the base is; None takes the one that adapter_config.json names.
        dtype: of the base.
        instruction: text after the question; None keeps the base's.
        options: of the base.

    Raises:
        UserError: there is no base, or the adapter does not fit it.
    """
    allow_pickle = options.allow_pickle
    found = find_bare_base(folder, base, allow_pickle=allow_pickle)
    policy = load_policy(str(found), dtype, instruction, options)
    policy.delta = put_bare(policy, folder, found, allow_pickle=allow_pickle)
    return policy.requires_grad_(False).eval()


def finish(
    folder: Path,
    model: OmniModel,
    options: LoadOptions,
    instruction: str | None,
    *,
    is_new: bool,
) -> OmniModel:
    """Applies what was chosen to a model with its processor, and freezes it.

    Args:
        folder: where the gate's vocabulary may be.
        model: read or composed.
        options: None in a field changes nothing.
        instruction: text after the question; None keeps the processor's.
        is_new: whether nothing was trained here yet; only then is a gate reset.

    Raises:
        UserError: an option that the model has no use for, or weights that are NaN or infinite.
    """
    settings = _changed(model.processor.settings, model.config, options, instruction)
    model.processor = replace(model.processor, settings=settings)
    if model.gate is not None:
        size = model.config.gate_config.vocab_size
        gate_tokenizer = load_gate_tokenizer(folder, options.gate_vocab, size=size)
        model.processor = replace(model.processor, gate_tokenizer=gate_tokenizer)
        model.gate.dropout = options.bert_dropout
        if options.reset_gate and is_new:
            model.gate.reset()
    elif chosen := [name for name in GATE_OPTIONS if vars(options)[name]]:
        raise UserError(
            f"model.options.{chosen[0]} is for models with an instruction gate; "
            f"model.path={folder} has none"
        )
    check_finite(folder, model.named_parameters())
    return model.requires_grad_(False).eval()


def put_onto(
    policy: Any, base: Path, folder: Path, options: LoadOptions, instruction: str | None
) -> None:
    """Puts what an adapter checkpoint holds onto its loaded base, with its processor."""
    policy.delta = restore_delta(policy, folder, base)
    check_finite(folder, policy.named_parameters())
    processor = load_processor(folder)
    settings = _changed(processor.settings, policy.config, options, instruction)
    policy.processor = replace(
        processor, settings=settings, gate_tokenizer=policy.processor.gate_tokenizer
    )
    policy.requires_grad_(False).eval()


def load_processor(folder: Path) -> Processor:
    """Loads tokenizer, image processor, feature extractor and settings of a checkpoint of ours."""
    if not (folder / "tokenizer.json").is_file():
        raise UserError(
            f"model.path={folder}: the processor cannot be read: tokenizer.json is missing; copy "
            "it from the checkpoint that this one was trained from"
        )
    check_pointer(folder / "tokenizer.json")
    for place in (folder, folder / "image_processor", folder / "feature_extractor"):
        check_settings(place, f"model.path={place}")
    with one_error(f"model.path={folder}: the processor cannot be read"):
        settings = ProcessorSettings(**json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
        return Processor(
            tokenizer=PreTrainedTokenizerFast.from_pretrained(folder, trust_remote_code=False),
            image_processor=AutoImageProcessor.from_pretrained(
                folder / "image_processor",
                backend=settings.image_backend,
                trust_remote_code=False,
            ),
            feature_extractor=WhisperFeatureExtractor.from_pretrained(
                folder / "feature_extractor", trust_remote_code=False
            ),
            settings=settings,
        ).checked()


def published_processor(folder: Path, config: OmniConfig, fields: dict[str, Any]) -> Processor:
    """Builds a published checkpoint's: SigLIP's and Whisper's settings are those of their
    releases.
    """
    audio = config.audio_config
    image_processor, feature_extractor = media_processors(
        config.vision_config.image_size,
        num_mel_bins=audio.num_mel_bins,
        window_s=audio.max_source_positions // FRAMES_PER_SECOND,
    )
    return Processor(
        tokenizer=load_tokenizer(folder),
        image_processor=image_processor,
        feature_extractor=feature_extractor,
        settings=published_layout.read_settings(config, fields["num_frames"]),
    ).checked()


def sound_window_s(path: str | None) -> float:
    """Find how many seconds of sound a model takes, without loading it.

    Args:
        path: a checkpoint folder; for anything else it is Whisper's own window.
    """
    folder = None if path is None else Path(path) / "feature_extractor"
    if folder is None or not folder.is_dir():
        return WhisperFeatureExtractor().chunk_length
    extractor = WhisperFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
    return extractor.n_samples / extractor.sampling_rate


def media_processors(
    image_size: int, *, num_mel_bins: int, window_s: int
) -> tuple[SiglipImageProcessorPil, WhisperFeatureExtractor]:
    """Builds SigLIP's and Whisper's preprocessing; transformers' defaults are their releases'."""
    return (
        SiglipImageProcessorPil(size={"height": image_size, "width": image_size}),
        WhisperFeatureExtractor(feature_size=num_mel_bins, chunk_length=window_s),
    )


def _changed(
    settings: ProcessorSettings, config: OmniConfig, options: LoadOptions, instruction: str | None
) -> ProcessorSettings:
    """Applies what was chosen; None keeps what the checkpoint has."""
    changes: dict[str, Any] = {
        name: vars(options)[name]
        for name in ("image_fit", "media_end", "stray_vision_tokens", "mask_stops", "gate_text")
        if vars(options)[name] is not None
    }
    if options.wording is not None:
        wording = WORDINGS[options.wording]
        changes["question"], changes["question_end"] = wording.question, wording.separator
        changes["instruction"] = wording.instruction
    if instruction is not None:
        changes["instruction"] = instruction
    if options.num_frames is not None:
        changes["num_frames"] = options.num_frames
        changes["video_tokens"] = config.video_tokens(options.num_frames)
    return replace(settings, **changes)


def _check_tokens(folder: Path, config: OmniConfig, settings: ProcessorSettings) -> None:
    """Refuses settings that would leave another number of placeholders than there are features."""
    for name, wanted in (
        ("video_tokens", config.video_tokens(settings.num_frames)),
        ("audio_tokens", config.audio_tokens),
    ):
        seen = vars(settings)[name]
        if seen != wanted:
            raise UserError(
                f"model.path={folder}: {SETTINGS} says {name}={seen}, config.json makes {wanted}"
            )
