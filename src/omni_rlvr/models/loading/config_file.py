"""Read config.json of a checkpoint folder, which says to which family the model belongs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omni_rlvr.models.families import FAMILIES
from omni_rlvr.models.loading.untrusted import check_settings
from omni_rlvr.models.loading.weights import SINGLE, has_weights
from omni_rlvr.types import UserError

CONFIG = "config.json"
GENERATION = "generation_config.json"
SETTINGS = "processor_settings.json"
"""The processor's settings in our checkpoints, next to transformers' own files."""


def read_fields(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's config.json.

    Raises:
        UserError: The folder is not a checkpoint, or its model is of no known family.
    """
    missing = [] if (folder / CONFIG).exists() else [CONFIG]
    missing += [] if has_weights(folder) else [SINGLE]
    if missing:
        hint = "; did you mean its checkpoint/ folder?" if (folder / "checkpoint").exists() else ""
        raise UserError(f"model.path={folder} is not a checkpoint: {missing[0]} is missing{hint}")
    check_settings(folder, f"model.path={folder}")
    fields = _read_json(folder)
    if fields.get("model_type") not in FAMILIES:
        raise UserError(
            f"model.path={folder}: {CONFIG} has model_type={fields.get('model_type')!r}, which is "
            f"not supported; known: {', '.join(FAMILIES)}"
        )
    return fields


def model_type_of(folder: Path) -> str | None:
    """Read a folder's ``model_type``; None if there is no config.json or the type is unknown.

    Raises:
        UserError: config.json is not JSON.
    """
    seen = _read_json(folder).get("model_type") if (folder / CONFIG).is_file() else None
    return seen if seen in FAMILIES else None


def _read_json(folder: Path) -> dict[str, Any]:
    try:
        fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model.path={folder}: {CONFIG} is not JSON: {error}") from error
    return fields if isinstance(fields, dict) else {}
