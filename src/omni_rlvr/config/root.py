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
    """What the run does: train, evaluate, predict, report, ..."""
    dataset: DatasetConfig = MISSING
    """Where clips, labels and questions come from, and how they are read."""
    model: Any = MISSING
    """The model that is trained or asked, how it is loaded, and which of its parts are trained."""
    modality: ModalityConfig = MISSING
    """What the model gets of each clip: the picture, the sound, or both."""
    reward: Any = MISSING
    """How a completion is scored: named terms and a weight for each."""
    lexicon: Any = MISSING
    """The words by which a reasoning is counted as referring to what is seen or to what is heard.
    """
    stage: Any = MISSING
    """How the model is trained: supervised, or by one of the policy-gradient objectives."""
    rollout: Any = MISSING
    """The engine that samples completions, in training and in every other task."""
    optimizer: Any = MISSING
    """How weights are updated from gradients."""
    trainer: Any = MISSING
    """The flags of Lightning's Trainer: devices, strategy, precision."""
    logger: Any = field(default_factory=dict)
    """Where metrics are sent besides metrics.jsonl; several options in a list."""
    callbacks: Any = field(default_factory=dict)
    """Callbacks of training: the progress bar, tables of completions, the probe."""
    paths: PathsConfig = MISSING
    """The folders that runs are written to and data is read from."""
    feature_cache: FeatureCacheConfig = field(default_factory=FeatureCacheConfig)
    """The features of frozen towers on disk, which are then computed once."""
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
