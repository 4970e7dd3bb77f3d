"""The root of the config: one field a group, and the options of no group. No torch is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from omni_rlvr.config.dataset import DatasetConfig, FeatureCacheConfig, ModalityConfig


@dataclass
class PathsConfig:
    """Where things are read and written."""

    output_root: str = "outputs"
    data_root: str = "data"


@dataclass
class RootConfig:
    """The whole config: one field a group."""

    task: Any = MISSING
    dataset: DatasetConfig = MISSING
    model: Any = MISSING
    modality: ModalityConfig = MISSING
    reward: Any = MISSING
    lexicon: Any = MISSING
    stage: Any = MISSING
    rollout: Any = MISSING
    optimizer: Any = MISSING
    trainer: Any = MISSING
    logger: Any = field(default_factory=dict)
    callbacks: Any = field(default_factory=dict)
    paths: PathsConfig = MISSING
    feature_cache: FeatureCacheConfig = field(default_factory=FeatureCacheConfig)
    name: str = MISSING
    """The experiment's name: runs go to ``outputs/<name>/<date_time>``."""
    seed: int = 0
    """Of weights, data order and sampling."""
    runs: Any = None
    """What task=report gathers: a run's folder, a folder of runs (a sweep), a glob, or a list of
    these, ``runs='[a,b]'``."""
    html: bool | None = None
    """Of task=report: true makes the page of what each modality did, from runs of task=attribute,
    in place of tables of scores."""
    resume: str | None = None
    """"latest" or a run's folder: goes on where that run stopped."""
    video: str | None = None
    """Of task=predict: a video file, a folder of them, or a glob."""
    audio: str | None = None
    """Of task=predict: sound files likewise; beside ``video``, they replace the videos' sound."""
