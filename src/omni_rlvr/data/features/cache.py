"""Frozen towers' features on disk: a clip is encoded once, then read by every epoch, ablation and
evaluation.

Picture and sound are kept apart, each in a folder named by a hash of all that decides them: tower
weights, processor, decoding, dtype. Within it a clip is known by its file: path, size and time of
change. Features are rounded to the cache's dtype also when they come straight from a tower, so that
a run does not depend on what the cache held when it began.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from omni_rlvr.config.dataset import FeatureCacheConfig
from omni_rlvr.data.features.store import FeatureStore
from omni_rlvr.types import Batch, ClipFeatures, ClipNote, Example, Features

VERSION = 2
"""Of what is decoded and how features are laid out; part of every folder's name."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class FeatureCache:
    """The two stores of a run; a modality that is not used has none."""

    video: FeatureStore | None
    audio: FeatureStore | None
    dtype: torch.dtype

    def get(self, example: Example) -> ClipFeatures | None:
        """Reads a clip's features; None unless all modalities in use are there."""
        key = clip_key(example)
        if key is None:
            return None
        found = {}
        for name, store in self._stores().items():
            tensor = store.get(key)
            if tensor is None:
                return None
            found[name] = tensor if tensor.numel() else None  # an empty tensor: not in the clip
        return ClipFeatures(found.get("video"), found.get("audio"), self._notes_of(key))

    def holds(self, example: Example) -> bool:
        """Whether ``get`` would find the clip."""
        key = clip_key(example)
        return key is not None and all(key in store for store in self._stores().values())

    def noted(self, example: Example) -> list[tuple[str, ClipNote]]:
        """List the notes on a clip, each with its id; none for a clip that is not there."""
        key = clip_key(example)
        return [] if key is None else [(example.id, note) for note in self._notes_of(key)]

    def put(self, batch: Batch, features: Features) -> None:
        """Stores the features of the batch's clips that are not there yet."""
        kept = set(batch.cached_rows)
        new = [i for i in range(len(batch)) if i not in kept]
        keys = {i: key for i in new if (key := clip_key(batch.examples[i])) is not None}
        if not keys:
            return
        media = {
            "video": (batch.video_rows, features.video),
            "audio": (batch.audio_rows, features.audio),
        }
        for name, store in self._stores().items():
            rows, values = media[name]
            store.add(
                self._by_key(keys, rows.tolist(), values),
                notes=_notes(batch, keys, of_sound=name == "audio"),
            )

    def folders(self) -> list[Path]:
        """Where the features are."""
        return [store.folder for store in self._stores().values()]

    def _by_key(
        self, keys: Mapping[int, str], rows: Sequence[int], values: Tensor | None
    ) -> dict[str, Tensor]:
        places = {row: place for place, row in enumerate(rows)}
        out = {}
        for row, key in keys.items():
            if values is not None and row in places:
                made = values[places[row]].to(self.dtype)
                if made.isfinite().all():  # what overflowed is not kept for later runs
                    out[key] = made
            else:
                out[key] = absent(self.dtype)
        return out

    def _notes_of(self, key: str) -> tuple[ClipNote, ...]:
        texts = [store.note(key) or "[]" for store in self._stores().values()]
        notes = [ClipNote(**note) for text in texts for note in json.loads(text)]
        return tuple(dict.fromkeys(notes))

    def _stores(self) -> dict[str, FeatureStore]:
        both = {"video": self.video, "audio": self.audio}
        return {name: store for name, store in both.items() if store is not None}


def _notes(batch: Batch, keys: Mapping[int, str], *, of_sound: bool) -> dict[str, str]:
    """Write the notes of some rows as texts; those on sound stay with the sound's features."""
    rows = {
        key: [vars(n) for n in batch.notes[i] if of_sound or n.kind == "short"]
        for i, key in keys.items()
        if batch.notes
    }
    return {key: json.dumps(notes) for key, notes in rows.items() if notes}


def absent(dtype: torch.dtype) -> Tensor:
    """What stands for a modality that a clip does not have."""
    return torch.zeros(0, dtype=dtype)


def open_cache(
    config: FeatureCacheConfig, towers: Mapping[str, Mapping[str, object]], use: Mapping[str, bool]
) -> FeatureCache:
    """Opens the cache of a policy.

    Args:
        config: folder, dtype, size limit.
        towers: "video" and "audio" -> all that decides that tower's features.
        use: which modalities the run uses.
    """
    stores = {}
    for name, decides in towers.items():
        about = {"modality": name, "version": VERSION, "dtype": config.dtype, **decides}
        text = json.dumps(about, sort_keys=True, default=str)
        folder = Path(config.folder) / f"{name}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        limit = int(config.max_gb * 1e9 / 2)
        stores[name] = FeatureStore(folder, about, max_bytes=limit) if use[name] else None
    return FeatureCache(stores["video"], stores["audio"], DTYPES[config.dtype])


def clip_key(example: Example) -> str | None:
    """Names a clip by its files' paths, sizes and times of change; None if one cannot be seen."""
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
