"""Loads a policy from a checkpoint folder, with an error that says what is wrong with a folder that
is none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerFast, SiglipImageProcessor, WhisperFeatureExtractor
from transformers.utils import logging as transformers_logging

from omni_rlvr.models.delta import find_base, is_delta, restore_delta
from omni_rlvr.models.omni import OmniConfig, OmniModel
from omni_rlvr.models.processing import (
    SETTINGS,
    Processor,
    ProcessorSettings,
)
from omni_rlvr.types import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_policy(path: str, dtype: str, instruction: str | None) -> OmniModel:
    """Loads a checkpoint written by ``OmniModel.save``; one with adapters after its base.

    Args:
        path: a checkpoint folder.
        dtype: "float32", "bfloat16" or "float16".
        instruction: text after the question; None keeps what the checkpoint was trained with.

    Returns:
        The policy in eval mode, on the CPU.

    Raises:
        UserError: the folder is no checkpoint, or its weights do not fit its config.
    """
    if dtype not in DTYPES:
        raise UserError(f"model.dtype={dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    folder = Path(path)
    if is_delta(folder):
        base = find_base(folder, None)
        policy = load_policy(str(base), dtype, None)
        put_onto(policy, base, folder, instruction)
        return policy.eval()
    _check_folder(folder)
    transformers_logging.disable_progress_bar()
    try:
        loaded: Any = OmniModel.from_pretrained(
            folder,
            dtype=DTYPES[dtype],
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are listed below, by name, and raise there
        )
    except StrictDataclassError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"model.path={folder}: config.json is not consistent: {reason}") from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"model.path={folder}: the checkpoint cannot be read: {_first_line(error)}"
        ) from error
    model, info = loaded
    wrong = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}
    if wrong:
        listed = "; ".join(
            f"{kind}: {', '.join(keys[:3])} ({len(keys)})" for kind, keys in wrong.items()
        )
        raise UserError(f"model.path={folder}: weights do not fit config.json: {listed}")
    processor = load_processor(folder)
    _check_tokens(folder, model.config, processor.settings)
    model.processor = processor if instruction is None else processor.with_instruction(instruction)
    return model.eval()


def put_onto(policy: Any, base: Path, folder: Path, instruction: str | None) -> None:
    """Puts what an adapter checkpoint holds onto its loaded base, with its processor."""
    policy.delta = restore_delta(policy, folder, base)
    processor = load_processor(folder)
    policy.processor = processor if instruction is None else processor.with_instruction(instruction)


def _check_tokens(folder: Path, config: OmniConfig, settings: ProcessorSettings) -> None:
    """Refuses settings that would leave another number of placeholders than there are features."""
    vision, audio = config.vision_config, config.audio_config
    per_frame = (vision.image_size // vision.patch_size // config.video_merge) ** 2
    for name, wanted in (
        ("video_tokens", settings.num_frames * per_frame),
        ("audio_tokens", audio.max_source_positions // config.audio_merge),
    ):
        seen = vars(settings)[name]
        if seen != wanted:
            raise UserError(
                f"model.path={folder}: {SETTINGS} says {name}={seen}, config.json makes {wanted}"
            )


def load_processor(folder: Path) -> Processor:
    """Loads tokenizer, image processor, feature extractor and settings of a checkpoint folder."""
    try:
        settings = ProcessorSettings(**json.loads((folder / SETTINGS).read_text(encoding="utf-8")))
        return Processor(
            tokenizer=PreTrainedTokenizerFast.from_pretrained(folder),
            image_processor=SiglipImageProcessor.from_pretrained(folder / "image_processor"),
            feature_extractor=WhisperFeatureExtractor.from_pretrained(folder / "feature_extractor"),
            settings=settings,
        )
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"model.path={folder}: the processor cannot be read: {_first_line(error)}"
        ) from error


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(
            f"model.path={folder} is not a folder; give a checkpoint folder, "
            "e.g. outputs/cold_start/latest/checkpoint"
        )
    config, weights = folder / "config.json", folder / "model.safetensors"
    for file in (config, weights, folder / SETTINGS):
        if not file.exists():
            hint = (
                "; did you mean its checkpoint/ folder?" if (folder / "checkpoint").exists() else ""
            )
            raise UserError(f"model.path={folder} is no checkpoint: {file.name} is missing{hint}")
    try:
        fields = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model.path={folder}: config.json is not JSON: {error}") from error
    model_type = fields.get("model_type") if isinstance(fields, dict) else None
    if model_type != OmniConfig.model_type:
        raise UserError(
            f"model.path={folder}: config.json says model_type={model_type!r}, "
            f"this model reads {OmniConfig.model_type!r}"
        )
    with weights.open("rb") as stream:
        if stream.read(20).startswith(b"version https://git"):
            raise UserError(
                f"model.path={folder}: {weights.name} is a Git-LFS pointer; "
                "run 'git lfs pull' there"
            )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
