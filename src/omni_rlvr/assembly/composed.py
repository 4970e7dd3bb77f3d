"""What a composed config is once it is checked: the typed values that every task's build starts
from. A task's own inputs stand in its file, see ``tasks/table.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from omni_rlvr import distributed
from omni_rlvr.config.dataset import DatasetConfig, FeatureCacheConfig, ModalityConfig
from omni_rlvr.config.stage import LoopConfig
from omni_rlvr.config.trainable import TrainableConfig
from omni_rlvr.types import Example


@dataclass(frozen=True)
class Place:
    """Where a run writes, and what it is."""

    run_dir: Path
    latest: Path | None
    """The link that a run moves to itself once it has something to offer; None inside a sweep or
    pipeline.
    """
    config: dict[str, Any]
    """The resolved config, as it goes into run.json."""


@dataclass(frozen=True)
class Clips:
    """Annotations that were read, and how their clips are to be read."""

    dataset: DatasetConfig
    modality: ModalityConfig
    examples: dict[str, Sequence[Example]]
    """Split name -> examples."""


@dataclass(frozen=True)
class Composed:
    """A config whose types, ranges, targets and devices are checked; no file has been opened."""

    cfg: DictConfig
    """The config itself, for the groups that are built by their ``_target_``."""
    place: Place
    task: Any
    """The task's dataclass; the task's build knows which one it is."""
    dataset: DatasetConfig
    modality: ModalityConfig
    stage: LoopConfig
    trainable: TrainableConfig
    feature_cache: FeatureCacheConfig
    devices: Sequence[int]
    """Numbers of the devices that the task runs on, one process each."""
    base: Path | None
    """Where the base of new adapters on composed parts is written; None: there is none to write."""

    @property
    def wants_launch(self) -> bool:
        """Whether the task is for more devices than there are processes of it yet."""
        return len(self.devices) > distributed.num_ranks()
