"""Frozen towers' features on disk: a clip is encoded once, then read by every epoch, ablation and
evaluation.

Picture and sound have a folder each, named by a hash of all that determines the features: tower
weights, processor, decoding, dtype. Within a folder, a clip's key is a hash of its files' paths,
sizes and modification times. Features that come straight from a tower are rounded to the cache's
dtype too, so that a run does not depend on what the cache held when it began. The ``VideoShape``
and ``AudioShape`` that a prompt needs are stored with the features, so that no clip is opened.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omni_rlvr.config.dataset import FeatureCacheConfig
from omni_rlvr.data.features.store import FeatureStore
from omni_rlvr.types import (
    AudioShape,
    Batch,
    ClipFeatures,
    ClipNote,
    Example,
    Features,
    VideoShape,
)

VERSION = 2
"""Version of the decoding and of the feature layout; part of every folder's hash."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


Shape = VideoShape | AudioShape


@dataclass(frozen=True)
class FeatureCache:
    """The two stores of a run; a modality that is not used has none."""

    video: FeatureStore | None
    audio: FeatureStore | None
    dtype: torch.dtype
    common_shapes: Mapping[str, Shape]
    """The shape of "video" and "audio" for a family whose clips all have one shape; used for
    features that were cached before shapes were stored with them."""

    def get(self, example: Example) -> ClipFeatures | None:
        """Read a clip's features; None unless all modalities in use are there."""
        key = clip_key(example)
        if key is None:
            return None
        found: dict[str, Tensor] = {}
        for name, store in self._stores().items():
            tensor = store.get(key)
            if tensor is None:
                return None
            if tensor.numel():  # an empty tensor: the clip lacks this modality
                found[name] = tensor
        return ClipFeatures(
            found.get("video"),
            found.get("audio"),
            VideoShape(**self._shape_of("video", key)) if "video" in found else None,
            AudioShape(**self._shape_of("audio", key)) if "audio" in found else None,
            self._notes_of(key),
        )

    def holds(self, example: Example) -> bool:
        """Tell whether ``get`` would find the clip."""
        key = clip_key(example)
        return key is not None and all(key in store for store in self._stores().values())

    def noted(self, example: Example) -> list[tuple[str, ClipNote]]:
        """List the notes on a clip, each with the example's id; none if a file is missing."""
        key = clip_key(example)
        return [] if key is None else [(example.id, note) for note in self._notes_of(key)]

    def put(self, batch: Batch, features: Features) -> None:
        """Store the features of the batch's clips that did not come from a cache."""
        keys = {i: key for i in _read_rows(batch) if (key := clip_key(batch.examples[i]))}
        shapes = {"video": batch.video_shapes, "audio": batch.audio_shapes}
        values = {"video": features.video, "audio": features.audio}
        for name, store in self._stores().items():
            texts = {
                "note": _notes(batch, keys, of_sound=name == "audio"),
                "shape": _shapes(shapes[name], keys),
            }
            store.add(self._by_key(keys, values[name], shapes[name]), texts=texts)

    def folders(self) -> list[Path]:
        """List the folders that hold the features."""
        return [store.folder for store in self._stores().values()]

    def _by_key(
        self,
        keys: Mapping[int, str],
        values: Sequence[Tensor | None],
        shapes: Sequence[Shape | None],
    ) -> dict[str, Tensor]:
        out = {}
        for row, key in keys.items():
            made = values[row]
            if shapes[row] is None:
                out[key] = absent(self.dtype)
            elif made is not None:
                made = made.to(self.dtype)
                if made.isfinite().all():  # features that overflowed are not stored
                    out[key] = made
        return out

    def _notes_of(self, key: str) -> tuple[ClipNote, ...]:
        texts = [store.text("note", key) or "[]" for store in self._stores().values()]
        notes = [ClipNote(**note) for text in texts for note in json.loads(text)]
        return tuple(dict.fromkeys(notes))

    def _shape_of(self, name: str, key: str) -> dict[str, Any]:
        """Read the fields of a stored shape, or take the common shape if none was stored."""
        text = self._stores()[name].text("shape", key)
        fields = vars(self.common_shapes[name]) if text is None else json.loads(text)
        # JSON has no tuples
        return {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}

    def _stores(self) -> dict[str, FeatureStore]:
        both = {"video": self.video, "audio": self.audio}
        return {name: store for name, store in both.items() if store is not None}


def _read_rows(batch: Batch) -> list[int]:
    """List the rows whose clips were decoded, as the cache did not have them."""
    cached = batch.features
    if cached is None:
        return list(range(len(batch)))
    return [i for i in range(len(batch)) if cached.video[i] is None and cached.audio[i] is None]


def _shapes(shapes: Sequence[Shape | None], keys: Mapping[int, str]) -> dict[str, str]:
    return {
        key: json.dumps(vars(shape)) for i, key in keys.items() if (shape := shapes[i]) is not None
    }


def _notes(batch: Batch, keys: Mapping[int, str], *, of_sound: bool) -> dict[str, str]:
    """Write the notes of some rows as JSON; the video store gets only notes on a short clip."""
    rows = {
        key: [vars(n) for n in batch.notes[i] if of_sound or n.kind == "short"]
        for i, key in keys.items()
        if batch.notes
    }
    return {key: json.dumps(notes) for key, notes in rows.items() if notes}


def absent(dtype: torch.dtype) -> Tensor:
    """Make the empty tensor that stands for a modality that a clip does not have."""
    return torch.zeros(0, dtype=dtype)


def open_cache(
    config: FeatureCacheConfig,
    towers: Mapping[str, Mapping[str, object]],
    use: Mapping[str, bool],
    common_shapes: Mapping[str, Shape],
) -> FeatureCache:
    """Open the cache of a policy.

    Args:
        config: Folder, dtype, size limit.
        towers: Modality ("video", "audio") of each tower -> all that determines its features.
        use: Which modalities the run uses.
        common_shapes: See ``FeatureCache``.
    """
    stores: dict[str, FeatureStore | None] = {"video": None, "audio": None}
    for name, decides in towers.items():
        about = {"modality": name, "version": VERSION, "dtype": config.dtype, **decides}
        text = json.dumps(about, sort_keys=True, default=str)
        folder = Path(config.folder) / f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        limit = int(config.max_gb * 1e9 / 2)
        stores[name] = FeatureStore(folder, about, max_bytes=limit) if use[name] else None
    return FeatureCache(stores["video"], stores["audio"], DTYPES[config.dtype], common_shapes)


def clip_key(example: Example) -> str | None:
    """Hash the paths, sizes and modification times of a clip's files; None if one is missing."""
    parts = []
    for path in (example.video, example.audio):
        if path is None:
            parts.append("-")
            continue
        try:
            stat = path.stat()
        except OSError:
            return None
        parts.append(f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}")
    return hashlib.sha256(os.fsencode("\n".join(parts))).hexdigest()[:32]
