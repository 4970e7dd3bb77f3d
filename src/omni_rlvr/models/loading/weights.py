"""Open the weights of a checkpoint folder, tensor by tensor, and check them.

Only headers are read here; a tensor is read when the model asks for it, so that loading needs
little more memory than the weights take. Pickled weights are read only if allowed, and without
running any code in them.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from omni_rlvr.foreign import NO_WEIGHTS, recognise_file
from omni_rlvr.types import UserError, first_line

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
PICKLE_ADVICE = "use safetensors, or trust them with model.options.allow_pickle=true"
_HEADER = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""The names of dtypes in a safetensors header."""


def open_weights(folder: Path, dtype: torch.dtype, *, allow_pickle: bool) -> dict[str, Any]:
    """Open one safetensors file, its shards, or (if allowed) pickled weights.

    Args:
        folder: The checkpoint.
        dtype: What the weights will be cast to.
        allow_pickle: Whether pickled weights may be read.

    Returns:
        Name -> slice of a safetensors file, or tensor; ``[...]`` reads it.

    Raises:
        UserError: A file is missing, truncated, a Git-LFS pointer or pickled.
    """
    if (folder / SINGLE).exists():
        return _open(folder / SINGLE, dtype)
    if (folder / INDEX).exists():
        return _open_shards(folder, _index(folder / INDEX), partial(_open, dtype=dtype))
    pickled = next((name for name in PICKLED if (folder / name).exists()), None)
    if pickled is None:
        raise UserError(f"model.path={folder} is not a checkpoint: {SINGLE} is missing")
    if not allow_pickle:
        raise UserError(
            f"model.path={folder} has only pickled weights ({pickled}), which can hide code; "
            f"{PICKLE_ADVICE}"
        )
    if pickled.endswith(".bin"):
        return unpickle(folder / pickled)
    return _open_shards(folder, _index(folder / pickled), unpickle)


def has_weights(folder: Path) -> bool:
    """Tell whether a folder has weights of any kind."""
    return any((folder / name).exists() for name in (SINGLE, INDEX, *PICKLED))


def save_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    try:
        save_file(weights, path, metadata={"format": "pt"})
    except SafetensorError as error:  # raised when the disk is full
        raise OSError(f"cannot write {path.parent}: {error}") from error


def shapes_of(weights: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return each weight's shape; no tensor is read."""
    return {
        name: tuple(w.shape if isinstance(w, torch.Tensor) else w.get_shape())
        for name, w in weights.items()
    }


def _open_shards(folder: Path, index: Mapping[str, str], read: Any) -> dict[str, Any]:
    weights: dict[str, Any] = {}
    for name in sorted(set(index.values())):
        if not (folder / name).exists():
            raise UserError(
                f"model.path={folder}: the shard {name} is missing; download the folder again"
            )
        weights |= read(folder / name)
    missing = sorted(set(index) - set(weights))
    if missing:
        raise UserError(
            f"model.path={folder}: {index[missing[0]]} lacks {missing[0]} ({len(missing)} in all), "
            f"which the index promises; download the folder again"
        )
    return weights


def _index(path: Path) -> dict[str, str]:
    try:
        return {
            str(k): str(v) for k, v in json.loads(path.read_text("utf-8"))["weight_map"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"model.path={path.parent}: {path.name} is not an index of shards; download it again"
        ) from error


def _open(path: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Open a file: memory-mapped if no weight will be cast, else read tensor by tensor.

    A weight of a mapped file takes no memory until it is used; but one that is cast would be in
    memory twice.
    """
    check_pointer(path)
    try:
        file = safe_open(path, framework="pt", backend="pread")
        names = list(file.keys())
        if all(file.get_slice(name).get_dtype() == _HEADER[dtype] for name in names):
            file = safe_open(path, framework="pt", backend="mmap")
        return {name: file.get_slice(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"model.path={path.parent}: {path.name} cannot be read: {error}; it may be cut short, "
            "download it again"
        ) from error


def unpickle(path: Path) -> dict[str, Any]:
    """Read pickled weights without running any code in them.

    Raises:
        UserError: The file cannot be read, or holds something other than weights.
    """
    check_pointer(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(
            f"model.path={path.parent}: {path.name} cannot be read: {first_line(error)}"
        ) from error


def not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """Return the names of tensors with NaN or Inf; each is read once, without a copy."""
    return [
        name
        for name, tensor in tensors
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta
        # aminmax returns NaN if any element is NaN
        if not torch.stack(tensor.detach().aminmax()).isfinite().all()
    ]


def check_finite(folder: Path, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Refuse weights with NaN or Inf.

    Raises:
        UserError: There are such weights; names the folder and the first three.
    """
    wrong = not_finite(tensors)
    if wrong:
        raise UserError(
            f"model.path={folder}: {len(wrong)} of its tensors hold NaN or infinite numbers "
            f"({', '.join(wrong[:3])}); it is damaged, or was saved by a run that had diverged: "
            "use an earlier checkpoint"
        )


def check_pointer(path: Path) -> None:
    """Refuse a Git-LFS pointer or a web page in place of a large file; raises a UserError."""
    if found := recognise_file(path, NO_WEIGHTS):
        raise UserError(f"model.path={path.parent}: {path.name} is {found}")
