"""Reads a model from a checkpoint folder of either layout, ours or the published one.

config.json says which. Weights go tensor by tensor into a model that was built without any, cast
on the way; a weight that is missing, unexpected or of another shape is an error that names it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.utils import logging as transformers_logging

from omni_rlvr.models.composed import published_layout
from omni_rlvr.models.composed.model import OmniConfig, OmniModel
from omni_rlvr.models.composed.processor import SETTINGS
from omni_rlvr.models.loading.untrusted import check_settings, one_error
from omni_rlvr.models.loading.weights import SINGLE, has_weights, open_weights, shapes_of
from omni_rlvr.types import UserError

CONFIG = "config.json"
_NAMED = 5
"""Most wrong keys that an error names."""


def read_fields(folder: Path) -> dict[str, Any]:
    """Reads a checkpoint's config.json.

    Raises:
        UserError: the folder is no checkpoint, or of another architecture.
    """
    _check_files(folder)
    check_settings(folder, f"model.path={folder}")
    try:
        fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model.path={folder}: {CONFIG} is not JSON: {error}") from error
    model_type = fields.get("model_type") if isinstance(fields, dict) else None
    if model_type not in (OmniConfig.model_type, published_layout.MODEL_TYPE):
        raise UserError(
            f"model.path={folder}: {CONFIG} says model_type={model_type!r}, "
            f"this model reads {OmniConfig.model_type!r} and {published_layout.MODEL_TYPE!r}"
        )
    if model_type == OmniConfig.model_type and not (folder / SETTINGS).exists():
        raise UserError(f"model.path={folder} is no checkpoint: {SETTINGS} is missing")
    return fields


def is_published(fields: dict[str, Any]) -> bool:
    """Whether a config.json is of the published layout."""
    return fields["model_type"] == published_layout.MODEL_TYPE


def read_model(
    folder: Path, fields: dict[str, Any], dtype: torch.dtype, *, allow_pickle: bool
) -> OmniModel:
    """Reads a model without its processor.

    Args:
        folder: the checkpoint.
        fields: its config.json.
        dtype: of all weights.
        allow_pickle: whether pickled weights may be read.

    Raises:
        UserError: the weights cannot be read, or do not fit config.json.
    """
    weights = open_weights(folder, dtype, allow_pickle=allow_pickle)
    transformers_logging.disable_progress_bar()
    with one_error(f"model.path={folder}: the checkpoint cannot be read"):
        try:
            if is_published(fields):
                config = published_layout.read_config(folder, fields, shapes_of(weights))
                weights = {
                    published_layout.our_key(name): weight for name, weight in weights.items()
                }
                return _fill(folder, config, weights, dtype, published_layout.published_key)
            try:
                config = OmniConfig.from_pretrained(folder, trust_remote_code=False)
            except UserError as error:  # it does not know the folder
                raise UserError(f"model.path={folder}: {error}") from error
            return _fill(folder, config, weights, dtype, str)
        except StrictDataclassError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"model.path={folder}: {CONFIG} is not consistent: {reason}") from error


def _fill(
    folder: Path,
    config: OmniConfig,
    weights: dict[str, Any],
    dtype: torch.dtype,
    name: Callable[[str], str],
) -> OmniModel:
    loaded: Any = OmniModel.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=dtype,
        output_loading_info=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # they are listed below, by name, and raise there
    )
    model, info = loaded
    wrong = {kind: sorted(_describe(key, name) for key in keys) for kind, keys in info.items()}
    if any(wrong.values()):
        listed = "; ".join(
            f"{kind} ({len(keys)}): {', '.join(keys[:_NAMED])}"
            for kind, keys in wrong.items()
            if keys
        )
        advice = f"; {published_layout.LACKING}" if info["missing_keys"] else ""
        raise UserError(f"model.path={folder}: weights do not fit {CONFIG}: {listed}{advice}")
    return model


def _describe(key: Any, name: Callable[[str], str]) -> str:
    """Names a wrong key; one of another shape comes with both shapes."""
    if isinstance(key, str):
        return name(key)
    wrong, seen, wanted = key
    return f"{name(wrong)} is {list(seen)}, should be {list(wanted)}"


def _check_files(folder: Path) -> None:
    for present, missing in (
        ((folder / CONFIG).exists(), CONFIG),
        (has_weights(folder), SINGLE),
    ):
        if not present:
            hint = (
                "; did you mean its checkpoint/ folder?" if (folder / "checkpoint").exists() else ""
            )
            raise UserError(f"model.path={folder} is no checkpoint: {missing} is missing{hint}")
