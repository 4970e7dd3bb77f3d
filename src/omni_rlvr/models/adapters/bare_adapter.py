"""Load an adapter that another tool saved in peft's own format, and its base.

Such a folder holds an adapter and no file of this package, so the base's processor is kept.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from omni_rlvr.models.adapters import lora
from omni_rlvr.models.adapters.adapter_checkpoint import (
    fingerprint,
    is_adapter_checkpoint,
    replace_weights,
)
from omni_rlvr.models.adapters.peft_format import CONFIG, layer_of, read_adapter, read_settings
from omni_rlvr.models.families import FAMILIES, family_of
from omni_rlvr.models.loading.hub import find_checkpoint
from omni_rlvr.models.modules import part_of_weight, parts_of, place_of
from omni_rlvr.models.policy import AdapterCheckpoint, Policy
from omni_rlvr.types import UserError


def base_here(folder: Path, given: str | None) -> Path | None:
    """Find the base of such an adapter if it is a local folder; nothing is downloaded."""
    named = str(given or read_settings(folder).get("base_model_name_or_path"))
    places = [folder / named, Path(named).expanduser()]
    return next((place for place in places if place.is_dir()), None)


def find_bare_base(folder: Path, given: str | None, *, allow_pickle: bool) -> Path:
    """Find the base of an adapter that was saved in peft's own format.

    Args:
        folder: The folder with adapter_config.json.
        given: Where the base is; None takes base_model_name_or_path, looked for beside the adapter
            and then in the working folder, or a hub id.
        allow_pickle: Whether a download takes pickled weights too.

    Raises:
        UserError: No base is named, or it is not a video + audio model.
    """
    named = given or read_settings(folder).get("base_model_name_or_path")
    if not named:
        raise UserError(
            f"model.path={folder}: {CONFIG} names no base (base_model_name_or_path); "
            "set model.base=DIR"
        )
    source = f"model.base={given}" if given else f"{CONFIG} names {named!r}"
    try:
        base = base_here(folder, given) or find_checkpoint(str(named), allow_pickle=allow_pickle)
    except UserError as error:
        raise UserError(
            f"model.path={folder}: its base ({source}) is not there; set model.base=DIR"
        ) from error
    if is_adapter_checkpoint(base):
        raise UserError(
            f"model.path={folder}: its base ({source}) has an adapter itself; merge that first: "
            f"task=export model.path={base} task.to=DIR, then set model.base=DIR"
        )
    kind = _model_type(base)
    if kind not in FAMILIES:
        raise UserError(
            f"model.path={folder}: its base ({source}) is not a video + audio model (model_type="
            f"{kind!r}); set model.base=DIR to the model that contains this language model"
        )
    return base.resolve()


@torch.no_grad()
def put_bare(policy: Policy, folder: Path, base: Path, *, allow_pickle: bool) -> AdapterCheckpoint:
    """Put an adapter that was saved in peft's own format onto its base.

    Its weights may be named relative to the whole policy, to the model in the published layout, or
    to the language model.

    Returns:
        The base that the policy now belongs to, and the names of the weights that differ from it.

    Raises:
        UserError: The adapter cannot be read, or does not fit the policy.
    """
    adapter = read_adapter(folder, allow_pickle=allow_pickle)
    parts = parts_of(policy)
    whole: dict[str, Tensor] = {}
    found: dict[str, dict[str, str]] = {}
    layers = {name for name, _ in policy.named_modules()}
    for key in adapter.weights:
        part, name = _locate(policy, layers, key, folder)
        found.setdefault(part, {})[name] = key
    for part, keys in found.items():
        beside = lora.put_adapter(part, parts[part], adapter, keys)
        whole |= {f"{place_of(policy, part)}.{name}": weight for name, weight in beside.items()}
    is_tied = bool(adapter.settings.get("ensure_weight_tying"))
    replace_weights(policy, whole, f"the adapter {folder}", is_tied=is_tied)
    return AdapterCheckpoint(base, fingerprint(base), frozenset(whole))


def _locate(policy: Policy, layers: Collection[str], key: str, folder: Path) -> tuple[str, str]:
    """Find the part that an adapter's weight belongs to, and its name within the part."""
    for name in (key, family_of(policy.config.model_type).own_name(key)):
        layer = layer_of(name) if lora.is_adapter(name) else name.rpartition(".")[0]
        if lora.base_name(layer) in layers:
            part = part_of_weight(policy, f"{layer}.")
            place = place_of(policy, part)
            if name.startswith(f"{place}."):
                return part, name.removeprefix(f"{place}.")
    raise UserError(
        f"the adapter {folder} does not fit this model: there is no layer for its weight {key}; "
        "set model.base=DIR to the base that it was trained on"
    )


def _model_type(base: Path) -> str | None:
    try:
        fields = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return fields.get("model_type") if isinstance(fields, dict) else None
