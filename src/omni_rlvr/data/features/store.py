"""Store tensors by key in a folder of safetensors shards that several processes may write at once.

A shard is renamed into place when complete, and never changed. The shard's header holds a checksum
of each tensor: a damaged shard is removed with a warning, and its keys count as missing. Nothing
here depends on what the tensors are.
"""

from __future__ import annotations

import json
import logging
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from omni_rlvr.folders import write_file

log = logging.getLogger(__name__)

ABOUT = "about.json"


class FeatureStore:
    """A mapping from keys to tensors, kept in one folder."""

    def __init__(self, folder: Path, about: Mapping[str, object], *, max_bytes: int):
        """Open a folder of shards; it is created with the first shard.

        Args:
            folder: The folder of the shards.
            about: What the tensors are; written to about.json for people to read.
            max_bytes: The limit on the total size of the shards; what would exceed it is not added.
        """
        self.folder = folder
        self.about = about
        self.max_bytes = max_bytes
        self._shard_of: dict[str, Path] = {}
        self._texts: dict[str, str] = {}
        self._known: set[str] = set()
        self._seen_ns = -1
        self._num_bytes = 0
        self._closed = False  # whether writing has ended: the store or the disk is full

    def __contains__(self, key: str) -> bool:
        if key not in self._shard_of:
            self._look()
        return key in self._shard_of

    def get(self, key: str) -> Tensor | None:
        """Read a tensor; None if it is missing or was removed as damaged."""
        if key not in self:
            return None
        shard = self._shard_of[key]
        try:
            with safe_open(shard, framework="pt") as file:
                tensor = file.get_tensor(key)
                wanted = (file.metadata() or {}).get(key)
        except FileNotFoundError:  # another process found it damaged
            self._forget(shard)
            return None
        except (SafetensorError, OSError) as error:
            self._drop(shard, str(error))
            return None
        if wanted != checksum(tensor):
            self._drop(shard, "a checksum differs")
            return None
        return tensor

    def text(self, kind: str, key: str) -> str | None:
        """Read the text of a kind that was stored with a tensor; None if there is none."""
        return self._texts.get(f"{kind}:{key}")

    def add(
        self, tensors: Mapping[str, Tensor], *, texts: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """Write the tensors whose keys are new as one shard; warn once if there is no room.

        Args:
            tensors: Key -> tensor.
            texts: Kind -> key -> a text to store with the tensor of this key.
        """
        new = {k: t.detach().cpu().contiguous() for k, t in tensors.items() if k not in self}
        size = sum(t.numel() * t.element_size() for t in new.values())
        if not new or self._closed:
            return
        if self._num_bytes + size > self.max_bytes:
            self._close(f"is full at {self._num_bytes / 1e9:.2f} GB (feature_cache.max_gb)")
            return
        name = f"{uuid.uuid4().hex}.safetensors"
        kept = {
            f"{kind}:{key}": text
            for kind, by_key in (texts or {}).items()
            for key, text in by_key.items()
            if key in new
        }
        shard = save(new, metadata={key: checksum(t) for key, t in new.items()} | kept)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / ABOUT).exists():
                # Not by write_file: processes that start together would share its unfinished file.
                (self.folder / ABOUT).write_text(json.dumps(self.about, indent=1, default=str))
            write_file(self.folder / name, shard)
        except OSError as error:
            self._close(f"cannot be written ({error})")
            return
        self._add_shard(self.folder / name, list(new), kept)

    def _look(self) -> None:
        """Index the shards that were added since the last call."""
        try:
            changed_ns = self.folder.stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return
        if changed_ns == self._seen_ns:
            return
        self._seen_ns = changed_ns
        for shard in self.folder.glob("*.safetensors"):
            if shard.name in self._known:
                continue
            try:
                with safe_open(shard, framework="pt") as file:
                    keys, about = list(file.keys()), file.metadata() or {}
                self._add_shard(shard, keys, about)
            except FileNotFoundError:  # removed since it was listed
                continue
            except (SafetensorError, OSError) as error:
                self._drop(shard, str(error))

    def _add_shard(self, shard: Path, keys: list[str], about: Mapping[str, str]) -> None:
        self._known.add(shard.name)
        self._num_bytes += shard.stat().st_size
        self._shard_of |= dict.fromkeys(keys, shard)
        self._texts |= {name: text for name, text in about.items() if ":" in name}

    def _drop(self, shard: Path, reason: str) -> None:
        log.warning(
            "feature cache: %s is damaged (%s); it is removed and its clips are encoded again",
            shard,
            reason,
        )
        self._forget(shard)
        shard.unlink(missing_ok=True)

    def _forget(self, shard: Path) -> None:
        self._shard_of = {k: s for k, s in self._shard_of.items() if s != shard}

    def _close(self, why: str) -> None:
        self._closed = True
        log.warning("feature cache: %s %s; further clips are encoded each time", self.folder, why)


def checksum(tensor: Tensor) -> str:
    """Compute the CRC-32 of a tensor's bytes."""
    return str(zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()))
