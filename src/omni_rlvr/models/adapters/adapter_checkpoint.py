"""Checkpoints of a policy with adapters: what differs from a base, and which base that is.

    adapters/<part>/       the part's adapter in peft's own format
    trained.safetensors    other weights that were trained, e.g. the projectors
    base.json              the base's folder (also as seen from here) and fingerprint, and the
                           names in trained.safetensors

The base is not copied. Its fingerprint is that of its content, so that it may move, and so that
another model in its place is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from omni_rlvr.models.adapters import lora
from omni_rlvr.models.loading.weights import save_weights
from omni_rlvr.models.modules import Modules, parts_of, place_of
from omni_rlvr.models.policy import AdapterCheckpoint
from omni_rlvr.pointers import follow
from omni_rlvr.types import UserError

BASE, TRAINED, ADAPTERS = "base.json", "trained.safetensors", "adapters"


def is_adapter_checkpoint(folder: Path) -> bool:
    """Say whether a checkpoint folder needs a base."""
    return (folder / BASE).exists()


def fingerprint(folder: Path) -> str:
    """Compute the SHA-256 of a checkpoint's config and weight files, names included.

    Raises:
        UserError: There are none.
    """
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    if not weights:
        raise UserError(f"model.path={folder}: adapters need their base in a folder; this is none")
    digest = hashlib.sha256()
    files = [folder / "config.json", *weights]
    for file in sorted(file for file in files if file.exists()):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def find_base(folder: Path, given: str | None) -> Path:
    """Find the base of an adapter checkpoint.

    Args:
        folder: The checkpoint.
        given: Where the base is now; None takes the place that the checkpoint noted.

    Raises:
        UserError: There is none, or it is another model.
    """
    checkpoint = _read(folder)
    base = follow(checkpoint.base if given is None else Path(given))
    if not (base / "config.json").exists() or is_adapter_checkpoint(base):
        key = "noted in the checkpoint" if given is None else f"model.base={given}"
        raise UserError(
            f"model.path={folder}: its base ({key}) is not at {base}; set model.base=DIR"
        )
    if (seen := fingerprint(base)) != checkpoint.fingerprint:
        raise UserError(
            f"model.path={folder}: {base} is not the base it was trained on (fingerprint "
            f"{seen[:12]}, not {checkpoint.fingerprint[:12]}); set model.base=DIR"
        )
    return base.resolve()


def own_weights(policy: Modules, *, every_name: bool = False) -> dict[str, nn.Parameter]:
    """List all weights but adapters, under the names they have without adapters.

    Args:
        policy: The policy whose weights they are.
        every_name: Whether one that is tied comes under each of its names.
    """
    return {
        name.replace(".base_layer.", "."): weight
        for name, weight in policy.named_parameters(remove_duplicate=not every_name)
        if not lora.is_adapter(name)
    }


def save_adapter_checkpoint(policy: Modules, checkpoint: AdapterCheckpoint, folder: Path) -> None:
    """Write adapters, trained weights and what they belong to.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    own = own_weights(policy)
    weights = {name: own[name].detach().contiguous() for name in sorted(checkpoint.names)}
    save_weights(weights, folder / TRAINED)
    lora.save_adapters(parts_of(policy), folder / ADAPTERS)
    fields = {
        "path": str(checkpoint.base),
        "relative": os.path.relpath(checkpoint.base, folder.resolve()),
        "fingerprint": checkpoint.fingerprint,
        "weights": [*weights],
    }
    (folder / BASE).write_text(json.dumps(fields, indent=1), encoding="utf-8")


@torch.no_grad()
def restore_adapter_checkpoint(policy: Modules, folder: Path, base: Path) -> AdapterCheckpoint:
    """Put adapters and trained weights of a checkpoint onto its base, or onto a policy that has
    adapters of the same shape already.

    Returns:
        What the policy is now the difference to.

    Raises:
        UserError: The folder is damaged, or does not fit the policy.
    """
    checkpoint = _read(folder)
    beside = lora.load_adapters(parts_of(policy), folder / ADAPTERS)
    try:
        weights = load_file(folder / TRAINED)
    except (OSError, SafetensorError) as error:
        raise UserError(f"model.path={folder}: {TRAINED} cannot be read: {error}") from error
    if {*weights} != checkpoint.names:
        raise UserError(f"model.path={folder}: {TRAINED} does not hold what {BASE} names")
    whole = {
        f"{place_of(policy, part)}.{name}": weight
        for part, own in beside.items()
        for name, weight in own.items()
    }
    replace_weights(policy, whole, f"the adapters in {folder / ADAPTERS}", is_tied=False)
    replace_weights(policy, weights, f"model.path={folder}: {TRAINED}", is_tied=True)
    return AdapterCheckpoint(base, checkpoint.fingerprint, checkpoint.names | {*whole})


@torch.no_grad()
def replace_weights(
    policy: Modules, weights: Mapping[str, Tensor], source: str, *, is_tied: bool
) -> None:
    """Replace weights of the base by others.

    Args:
        policy: The policy whose weights are replaced.
        weights: The new weights by their names in the base.
        source: Where they come from, for messages.
        is_tied: Whether a weight that the base has under two names may be given under one of them.

    Raises:
        UserError: The base has no weight of that name and shape, or a tied weight is given once
            where ``is_tied`` is False.
    """
    own = own_weights(policy)
    names: dict[int, list[str]] = {}
    for name, weight in own_weights(policy, every_name=True).items():
        names.setdefault(id(weight), []).append(name)
    every = {name: own_name for own_name in own for name in names[id(own[own_name])]}
    for name, value in weights.items():
        if name not in every or own[every[name]].shape != value.shape:
            seen = list(own[every[name]].shape) if name in every else "absent"
            raise UserError(f"{source}: {name} is {list(value.shape)}, and {seen} in the base")
        tied = [other for other in names[id(own[every[name]])] if other != name]
        alike = [t for t in tied if t in weights and torch.equal(weights[t], value)]
        if not is_tied and alike != tied:
            raise UserError(
                f"{source}: {name} stands in place of the base's (modules_to_save), where it is "
                f"one weight with {tied[0]}; here they stay one, so that the adapter cannot be used"
            )
        own[every[name]].copy_(value)


def _read(folder: Path) -> AdapterCheckpoint:
    """Read base.json; a base that was moved together with the checkpoint is found beside it."""
    try:
        fields = json.loads((folder / BASE).read_text(encoding="utf-8"))
        base = Path(fields["path"])
        moved = folder.resolve() / fields.get("relative", base)
        if not base.exists() and moved.exists():
            base = moved
        return AdapterCheckpoint(base, fields["fingerprint"], frozenset(fields["weights"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"model.path={folder}: {BASE} cannot be read: {error}") from error
