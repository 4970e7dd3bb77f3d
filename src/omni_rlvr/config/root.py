"""The root of the config: a field for each group, and the options outside all groups.

This file imports no torch, because the command line reads it before anything else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from omni_rlvr.config.dataset import DatasetConfig, FeatureCacheConfig, ModalityConfig


@dataclass
class PathsConfig:
    """The folders that runs are written to and data is read from."""

    output_root: str = "outputs"
    """The folder that holds the folders of all runs."""
    data_root: str = "data"
    """The folder that holds data sets and cached features."""


@dataclass
class RootConfig:
    """The whole config."""

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
    """The seed of new weights, of the order of the data and of sampling."""
    runs: Any = None
    """For task=report, the runs to compare: a run's folder, a folder of runs (a sweep), a glob, or
    a list of these, ``runs='[a,b]'``."""
    html: bool | None = None
    """For task=report: true makes a page from runs of task=attribute that shows what each modality
    contributes, instead of tables of scores."""
    resume: str | None = None
    """The run to resume: "latest" or a run's folder."""
    video: str | None = None
    """For task=predict: a video file, a folder of them, or a glob."""
    audio: str | None = None
    """For task=predict: sound files, given in the same way. Beside ``video``, they replace the
    sound of the videos."""
