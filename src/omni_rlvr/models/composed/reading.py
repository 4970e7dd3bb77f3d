"""Read a model's config and weights, in this package's layout or in the published one.

config.json says which layout it is. Weights are cast and loaded one by one into an empty model; a
weight that is missing, unexpected or of another shape is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from omni_rlvr.models.composed import published_layout
from omni_rlvr.models.composed.model import OmniConfig, OmniModel
from omni_rlvr.models.loading.config_file import CONFIG
from omni_rlvr.models.loading.untrusted import one_error
from omni_rlvr.models.loading.weights import open_weights, shapes_of
from omni_rlvr.types import UserError

_NAMED = 5
"""Number of wrong keys that an error names at most."""


def is_published(fields: dict[str, Any]) -> bool:
    """Tell whether a config.json is of the published layout."""
    return fields["model_type"] == published_layout.MODEL_TYPE


def read_model(
    folder: Path, fields: dict[str, Any], dtype: torch.dtype, *, allow_pickle: bool
) -> OmniModel:
    """Read a model without its processor.

    Args:
        folder: The checkpoint.
        fields: Its config.json.
        dtype: The dtype of all weights.
        allow_pickle: Whether pickled weights may be read.

    Raises:
        UserError: The weights cannot be read, or do not fit config.json.
    """
    weights = open_weights(folder, dtype, allow_pickle=allow_pickle)
    with _as_one_error(folder):
        config = _config(folder, fields, weights)
        if not is_published(fields):
            return _fill(folder, config, weights, dtype, str)
        weights = {published_layout.our_key(name): weight for name, weight in weights.items()}
        return _fill(folder, config, weights, dtype, published_layout.published_key)


def read_config(folder: Path, fields: dict[str, Any], *, allow_pickle: bool) -> OmniConfig:
    """Read only a model's config; of the weights at most their shapes.

    Raises:
        UserError: The config cannot be read.
    """
    weights: dict[str, Any] = {}
    if is_published(fields):  # some sizes follow only from the weights
        weights = open_weights(folder, torch.float32, allow_pickle=allow_pickle)
    with _as_one_error(folder):
        return _config(folder, fields, weights)


def _config(folder: Path, fields: dict[str, Any], weights: dict[str, Any]) -> OmniConfig:
    if is_published(fields):
        return published_layout.read_config(folder, fields, shapes_of(weights))
    try:
        return OmniConfig.from_pretrained(folder, trust_remote_code=False)
    except UserError as error:  # the error does not name the folder
        raise UserError(f"model.path={folder}: {error}") from error


@contextmanager
def _as_one_error(folder: Path) -> Iterator[None]:
    with one_error(f"model.path={folder}: the checkpoint cannot be read"):
        try:
            yield
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
        ignore_mismatched_sizes=True,  # the error below lists them by name
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
    """Name a wrong key; one of another shape with both shapes."""
    if isinstance(key, str):
        return name(key)
    wrong, seen, wanted = key
    return f"{name(wrong)} is {list(seen)}, should be {list(wanted)}"
