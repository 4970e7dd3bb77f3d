"""Checkpoints of a policy: the whole model or, with adapters, the changes to a base.

    adapters/<part>/       a part's adapter in peft's own format
    trained.safetensors    other weights that were trained, e.g. the projectors
    base.json              the base's folder (also as seen from here) and fingerprint, whether it
                           was rounded to 4 bits, and the names in trained.safetensors

The base is not copied. Its fingerprint is a hash of its content, so that it may be moved, and
another model in its place is detected.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from omni_rlvr.models.adapters import lora
from omni_rlvr.models.loading.weights import save_weights
from omni_rlvr.models.modules import Modules, parts_of, place_of
from omni_rlvr.models.policy import AdapterCheckpoint
from omni_rlvr.models.sharding import state_of
from omni_rlvr.pointers import follow
from omni_rlvr.types import UserError

BASE, TRAINED, ADAPTERS = "base.json", "trained.safetensors", "adapters"
SAMPLED = "sampled:"
"""Prefix of a fingerprint for which large files were hashed in part."""
_SPAN, _NUM_SPANS = 2**16, 64
"""Bytes of a span, and the number of spans that are hashed of a file larger than all of them."""


class Saved(Modules, Protocol):
    """What ``save_policy`` needs of a policy."""

    processor: Any
    adapter_checkpoint: AdapterCheckpoint | None


def is_adapter_checkpoint(folder: Path) -> bool:
    """Tell whether a folder holds a checkpoint that needs a base."""
    return (folder / BASE).exists()


def fingerprint(folder: Path, *, whole: bool = False) -> str:
    """Compute a SHA-256 of a checkpoint's config and weight files, names included.

    Of a large file, its size, the header in which safetensors lists all weights, and evenly spaced
    spans of bytes are hashed. Training changes all weights of a matrix, so that another model of
    the same shapes is detected; a few damaged bytes may not be.

    Args:
        folder: The checkpoint.
        whole: Whether to hash large files whole, as in checkpoints of earlier versions.

    Returns:
        The digest, with the prefix ``SAMPLED`` unless ``whole``.

    Raises:
        UserError: The folder has no weight files.
    """
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    if not weights:
        raise UserError(f"model.path={folder}: adapters need a base in a folder; this is not one")
    digest = hashlib.sha256()
    files = [folder / "config.json", *weights]
    for file in sorted(file for file in files if file.exists()):
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            if whole or file.stat().st_size <= _SPAN * _NUM_SPANS:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
            else:
                _add_sample(digest, stream, file.stat().st_size)
    return digest.hexdigest() if whole else SAMPLED + digest.hexdigest()


def _add_sample(digest: Any, stream: BinaryIO, size: int) -> None:
    """Hash the size and the header of a large file, and spans of it at equal distances."""
    start = stream.read(8)  # in safetensors: the length of the header
    digest.update(size.to_bytes(8, "little") + start)
    if Path(stream.name).suffix == ".safetensors":
        digest.update(stream.read(min(int.from_bytes(start, "little"), size)))
    for i in range(_NUM_SPANS):
        stream.seek(i * (size - _SPAN) // (_NUM_SPANS - 1))
        digest.update(stream.read(_SPAN))


def find_base(folder: Path, given: str | None) -> Path:
    """Find the base of an adapter checkpoint.

    Args:
        folder: The checkpoint.
        given: The folder of the base; None takes the one recorded in the checkpoint.

    Raises:
        UserError: The base is not there, or it is another model.
    """
    checkpoint = _read(folder)
    base = follow(checkpoint.base if given is None else Path(given))
    if not (base / "config.json").exists() or is_adapter_checkpoint(base):
        key = "recorded in the checkpoint" if given is None else f"model.base={given}"
        raise UserError(
            f"model.path={folder}: its base ({key}) is not at {base}; set model.base=DIR"
        )
    wanted = checkpoint.fingerprint
    if (seen := fingerprint(base, whole=not wanted.startswith(SAMPLED))) != wanted:
        seen, wanted = (text.removeprefix(SAMPLED)[:12] for text in (seen, wanted))
        raise UserError(
            f"model.path={folder}: {base} is not the base it was trained on (fingerprint "
            f"{seen}, not {wanted}); set model.base=DIR"
        )
    return base.resolve()


def own_weights(policy: Modules, *, every_name: bool = False) -> dict[str, nn.Parameter]:
    """List all weights but adapters, under the names they have without adapters.

    Args:
        policy: A policy.
        every_name: Whether to list a tied weight under each of its names.
    """
    return {
        lora.base_name(name): weight
        for name, weight in policy.named_parameters(remove_duplicate=not every_name)
        if not lora.is_adapter(name)
    }


def save_policy(
    policy: Saved, folder: Path, model: Callable[[], Any], *, excluded: str | None = None
) -> None:
    """Write a policy's processor and either its whole model or its adapters and trained weights.

    Args:
        policy: The policy.
        folder: The folder to write.
        model: Makes the transformers model that holds all weights of the policy; its config and
            weights are written if the policy has no adapters.
        excluded: See ``lora.save_adapters``.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    policy.processor.save(folder)
    if policy.adapter_checkpoint is not None:
        _save_adapters(policy, policy.adapter_checkpoint, folder, excluded)
        return
    whole = model()
    try:
        whole.save_pretrained(folder, state_dict=state_of(whole))
    except SafetensorError as error:  # raised when the disk is full
        raise OSError(f"cannot write {folder}: {error}") from error


def _save_adapters(
    policy: Modules, checkpoint: AdapterCheckpoint, folder: Path, excluded: str | None
) -> None:
    """Write the adapters, the trained weights, and which base they belong to."""
    own = own_weights(policy)
    weights = {name: own[name].detach().contiguous() for name in sorted(checkpoint.names)}
    save_weights(weights, folder / TRAINED)
    lora.save_adapters(parts_of(policy), folder / ADAPTERS, excluded)
    fields = {
        "path": str(checkpoint.base),
        "relative": os.path.relpath(checkpoint.base, folder.resolve()),
        "fingerprint": checkpoint.fingerprint,
        "weights": [*weights],
        "quantized": checkpoint.quantized,
    }
    (folder / BASE).write_text(json.dumps(fields, indent=1), encoding="utf-8")


@torch.no_grad()
def restore_adapter_checkpoint(policy: Modules, folder: Path, base: Path) -> AdapterCheckpoint:
    """Load the adapters and trained weights of a checkpoint into a policy.

    The policy is its base, or has adapters of the same shape already.

    Returns:
        The base that the policy now belongs to, and the names of the weights that differ from it.

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
    return replace(checkpoint, base=base, names=checkpoint.names | {*whole})


@torch.no_grad()
def replace_weights(
    policy: Modules, weights: Mapping[str, Tensor], source: str, *, is_tied: bool
) -> None:
    """Overwrite weights of the base.

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
            here = own.get(every.get(name, name))
            seen = "absent" if here is None else list(here.shape)
            if here is not None and not here.is_floating_point():
                seen = "in 4 bits (model.options.quantize)"
            raise UserError(f"{source}: {name} is {list(value.shape)}, and {seen} in the base")
        tied = [other for other in names[id(own[every[name]])] if other != name]
        alike = [t for t in tied if t in weights and torch.equal(weights[t], value)]
        if not is_tied and alike != tied:
            raise UserError(
                f"{source}: {name} replaces a weight (modules_to_save) that the base has tied to "
                f"{tied[0]}; tied weights stay tied here, so this adapter cannot be used"
            )
        own[every[name]].copy_(value)


def _read(folder: Path) -> AdapterCheckpoint:
    """Read base.json; find a base that was moved together with the checkpoint."""
    try:
        fields = json.loads((folder / BASE).read_text(encoding="utf-8"))
        base = Path(fields["path"])
        moved = folder.resolve() / fields.get("relative", base)
        if not base.exists() and moved.exists():
            base = moved
        names, rounded = frozenset(fields["weights"]), fields.get("quantized")
        return AdapterCheckpoint(base, fields["fingerprint"], names, rounded)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"model.path={folder}: {BASE} cannot be read: {error}") from error
