"""The tasks and the root of the config; what stages and data tune stands beside their code.

A typo or a wrong type fails while Hydra composes; ranges are checked in ``__post_init__``, first
thing in ``build``. No torch is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from omni_rlvr.data.options import DatasetConfig, FeatureCacheConfig, ModalityConfig
from omni_rlvr.types import require


@dataclass
class EvaluateTask:
    """Generates greedily on labelled splits and measures WAR, UAR and format."""

    name: str = "evaluate"
    splits: list[str] = field(default_factory=lambda: ["test"])
    """Splits of the data set to evaluate on."""
    batch_size: int = 100
    """Prompts decoded together."""
    max_completion_length: int = 96
    """Most tokens an answer may have."""
    max_clips: int = 0
    """Evaluates on the first clips only; 0 takes all."""
    num_resamples: int = 2000
    """Bootstrap resamples of the 95 % interval."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "max_completion_length", "num_resamples"):
            require(self.__dict__[key] >= 1, f"task.{key}", self.__dict__[key], "1 or more")
        require(self.max_clips >= 0, "task.max_clips", self.max_clips, "0 (all) or more")


@dataclass
class StartConfig:
    """The training run whose checkpoint a run starts from, in place of ``model.path``."""

    overrides: list[str] = field(default_factory=list)
    """Its Hydra overrides; none: there is no such run. It is made once, by whichever run needs it
    first, under ``outputs/<its name>/shared``."""
    num_examples: int = -1
    """Training examples it gets (``dataset.max_train_examples``); -1 is all, 0 leaves it out, so
    that the run starts from ``model.path``."""

    def __post_init__(self) -> None:
        require(
            self.num_examples >= -1,
            "task.start_from.num_examples",
            self.num_examples,
            "-1 (all), 0 (no such run) or more",
        )


@dataclass
class TrainTask:
    """Trains one stage and saves a checkpoint."""

    name: str = "train"
    start_from: StartConfig = field(default_factory=StartConfig)
    evaluate_after: EvaluateTask = field(default_factory=lambda: EvaluateTask(splits=[]))
    """An evaluation, as of task=evaluate, of the trained model; its files go into the same run. No
    splits: none."""


@dataclass
class CacheTask:
    """Fills the feature cache with splits, so that runs on them never wait for a tower."""

    name: str = "cache"
    splits: list[str] = field(default_factory=list)
    """Splits of the data set to encode; none means all."""
    batch_size: int = 16
    """Clips encoded together."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "task.batch_size", self.batch_size, "1 or more")


@dataclass
class PreviewTask:
    """Draws a sheet of clips: filmstrip, mel spectrogram, label, reasoning."""

    name: str = "preview"
    split: str = MISSING
    """The split to draw from."""
    num_clips: int = 8
    """Clips on the sheet."""
    max_reasoning_chars: int = 320
    """Longer reasoning is cut."""

    def __post_init__(self) -> None:
        require(1 <= self.num_clips <= 50, "task.num_clips", self.num_clips, "1 to 50")
        require(
            self.max_reasoning_chars >= 1,
            "task.max_reasoning_chars",
            self.max_reasoning_chars,
            "1 or more",
        )


@dataclass
class PipelineTask:
    """Trains several stages, evaluates every model, and ends in one table."""

    name: str = "pipeline"
    stages: dict[str, list[str]] = field(default_factory=dict)
    """Step name -> Hydra overrides of a training run, in order; ``{step}`` stands for that step's
    checkpoint."""
    shared: list[str] = field(default_factory=list)
    """Overrides of every step."""
    evaluate: dict[str, list[str]] = field(default_factory=dict)
    """Model name -> overrides of its evaluation on ``splits``."""
    splits: list[str] = field(default_factory=list)
    modality: dict[str, list[str]] = field(default_factory=dict)
    """Modality name -> overrides of an evaluation on the first of ``splits``."""

    def __post_init__(self) -> None:
        require(bool(self.stages), "task.stages", self.stages, "at least one")
        require(
            bool(self.splits and self.evaluate),
            "task.evaluate",
            self.evaluate,
            "at least one, with task.splits",
        )


@dataclass
class ReportTask:
    """Puts runs side by side: tables, tests against a baseline, figures, one HTML page."""

    name: str = "report"
    baseline: str = ""
    """What the others are tested against: a run's name, or COLUMN:VALUE, e.g. ``format:1``; none:
    no tests."""
    allow_different_labels: bool = False
    """Lets runs be compared whose scores are over different label lists."""
    num_resamples: int = 2000
    """Bootstrap resamples of the 95 % intervals of differences."""
    max_groups: int = 8
    """Most settings in a figure of recalls or confusion; the best by WAR and the baseline stay."""

    def __post_init__(self) -> None:
        for key in ("num_resamples", "max_groups"):
            require(self.__dict__[key] >= 1, f"task.{key}", self.__dict__[key], "1 or more")


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
    stage: Any = MISSING
    optimizer: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    callbacks: Any = MISSING
    paths: PathsConfig = MISSING
    feature_cache: FeatureCacheConfig = field(default_factory=FeatureCacheConfig)
    name: str = MISSING
    """The experiment's name: runs go to ``outputs/<name>/<date_time>``."""
    seed: int = 0
    """Of weights, data order and sampling."""
    runs: Any = None
    """What task=report gathers: a run's folder, a folder of runs (a sweep), a glob, or a list of
    these, ``runs='[a,b]'``."""
    resume: str | None = None
    """"latest" or a run's folder: goes on where that run stopped."""
