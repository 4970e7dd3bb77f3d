"""The tasks and the root of the config; what stages and data tune stands beside their code.

A typo or a wrong type fails while Hydra composes; ranges are checked in ``__post_init__``, first
thing in ``build``. No torch is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from omni_rlvr.config.dataset import DatasetConfig, FeatureCacheConfig, ModalityConfig
from omni_rlvr.config.tasks import (
    AttributeTask,
    CacheTask,
    CheckTask,
    ExportTask,
    PrepareTask,
    PreviewTask,
    ReportTask,
    ServeTask,
)
from omni_rlvr.types import require

__all__ = [
    "AttributeTask",
    "CacheTask",
    "CheckTask",
    "EvaluateTask",
    "ExportTask",
    "PathsConfig",
    "PipelineTask",
    "PredictTask",
    "PrepareTask",
    "PreviewTask",
    "ReportTask",
    "RootConfig",
    "ServeTask",
    "StartConfig",
    "TrainTask",
]


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
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that an answer has less likely; 1 is off."""
    max_clips: int = 0
    """Evaluates on the first clips only; 0 takes all."""
    num_resamples: int = 2000
    """Bootstrap resamples of the 95 % interval."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "max_completion_length", "num_resamples"):
            require(self.__dict__[key] >= 1, f"task.{key}", self.__dict__[key], "1 or more")
        _require_penalty(self.repetition_penalty)
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
class PredictTask:
    """Answers for clips without labels: +video=FILE, FOLDER or GLOB (and +audio=)."""

    name: str = "predict"
    batch_size: int = 16
    """Clips decoded together."""
    max_completion_length: int = 256
    """Most tokens an answer may have."""
    temperature: float = 0.0
    """Divides the logits when sampling; 0 decodes greedily."""
    repetition_penalty: float = 1.0
    """Above 1 makes tokens that an answer has less likely; 1 is off."""
    stream: bool = True
    """Shows the answer to a single clip token by token."""
    question: str | None = None
    """What is asked about each clip; null asks R1-Omni's question for the emotion."""
    labels: list[str] = field(default_factory=list)
    """What probabilities are over; empty takes dataset.labels."""
    answer_form: str = "auto"
    """Where labels are scored: in answer "tags", as a "bare" reply, or "auto": behind the model's
    own reasoning if it has answered in tags, else as the prompt asks for."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "max_completion_length"):
            require(self.__dict__[key] >= 1, f"task.{key}", self.__dict__[key], "1 or more")
        require(
            0 <= self.temperature < float("inf"),
            "task.temperature",
            self.temperature,
            "0 (greedy) or more",
        )
        _require_penalty(self.repetition_penalty)
        blank = self.question is not None and not self.question.strip()
        require(not blank, "task.question", self.question, "a question, or null")
        forms = ("auto", "tags", "bare")
        require(self.answer_form in forms, "task.answer_form", self.answer_form, f"one of {forms}")


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


def _require_penalty(value: float) -> None:
    require(1 <= value < float("inf"), "task.repetition_penalty", value, "1 (off) or more")
