"""A checked config as typed values, from which the ``build`` of every task starts.

The inputs of each task are defined in its own file, see ``tasks/table.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from omni_rlvr.config.dataset import DatasetConfig, FeatureCacheConfig, ModalityConfig
from omni_rlvr.config.stage import LoopConfig
from omni_rlvr.config.trainable import TrainableConfig
from omni_rlvr.types import Example

if TYPE_CHECKING:
    from omni_rlvr.models.policy import Policy


@dataclass(frozen=True)
class Place:
    """The folder of a run, and its config."""

    run_dir: Path
    latest: Path | None
    """The link that the run points at itself once it has results; None inside a sweep or pipeline.
    """
    config: dict[str, Any]
    """The resolved config, as it is written to run.json."""


@dataclass(frozen=True)
class Clips:
    """Examples that were read from annotations, and the options for reading their clips."""

    dataset: DatasetConfig
    modality: ModalityConfig
    examples: dict[str, Sequence[Example]]
    """Split name -> examples."""


@dataclass(frozen=True)
class Composed:
    """A config whose types, ranges, targets and devices are checked, before any file is opened."""

    cfg: DictConfig
    """The composed config, for the groups that are built by their ``_target_``."""
    place: Place
    task: Any
    """The dataclass of the task's options; the task's ``build`` knows its class."""
    dataset: DatasetConfig
    modality: ModalityConfig
    stage: LoopConfig
    trainable: TrainableConfig
    feature_cache: FeatureCacheConfig
    devices: Sequence[int]
    """The indices of this machine's devices that the task runs on, with one process for each."""
    launches: bool
    """Whether the task launches these processes; if so, this process is none of them."""
    base: Path | None
    """The folder that the base of new adapters is written to; None if no base is written."""
    policy: Policy | None
    """A policy that is loaded already, by the Python API; None if the task loads it."""
