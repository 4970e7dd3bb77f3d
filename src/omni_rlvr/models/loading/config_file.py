"""Reads config.json of a checkpoint folder, which says whose family the model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omni_rlvr.models.families import FAMILIES
from omni_rlvr.models.loading.untrusted import check_settings
from omni_rlvr.models.loading.weights import SINGLE, has_weights
from omni_rlvr.types import UserError

CONFIG = "config.json"


def read_fields(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's config.json.

    Raises:
        UserError: The folder is no checkpoint, or of another architecture.
    """
    missing = [] if (folder / CONFIG).exists() else [CONFIG]
    missing += [] if has_weights(folder) else [SINGLE]
    if missing:
        hint = "; did you mean its checkpoint/ folder?" if (folder / "checkpoint").exists() else ""
        raise UserError(f"model.path={folder} is no checkpoint: {missing[0]} is missing{hint}")
    check_settings(folder, f"model.path={folder}")
    try:
        fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model.path={folder}: {CONFIG} is not JSON: {error}") from error
    model_type = fields.get("model_type") if isinstance(fields, dict) else None
    if model_type not in FAMILIES:
        raise UserError(
            f"model.path={folder}: {CONFIG} says model_type={model_type!r}, "
            f"this model reads {' and '.join(map(repr, FAMILIES))}"
        )
    return fields
