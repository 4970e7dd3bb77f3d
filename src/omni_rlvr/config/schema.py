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
class TrainTask:
    """Trains one stage and saves a checkpoint."""

    name: str = "train"


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
        require(bool(self.splits), "task.splits", self.splits, "at least one split")


@dataclass
class AttributeTask:
    """Measures what each modality did: Shapley values, swapped sounds, faithful reasoning."""

    name: str = "attribute"
    splits: list[str] = field(default_factory=lambda: ["test"])
    """Splits of the data set to measure on; gold answers must be of dataset.labels."""
    batch_size: int = 32
    """Clips read together, within which donors for swaps are found; and prompts scored at once."""
    max_clips: int = 0
    """Takes the first clips only; 0 takes all."""
    text: bool = False
    """Whether the prompt text (the question, not the instruction) is a third player."""
    absent: str = "drop"
    """What absent means: "drop" leaves the modality out of the prompt, "silence_grey" shows silence
    or a grey picture, "other_clip" that of a clip with another label."""
    value: str = "log_prob"
    """v(S): "log_prob" or "prob" of a label, normalised over the label list."""
    lead: str = "empty_think"
    """What stands before the label: "direct" nothing but the answer tag, "empty_think" an empty
    think block too, "own_reasoning" the policy's greedy reasoning under each subset (a generation
    a subset)."""
    swap: bool = True
    """Whether other clips' sounds are put under pictures, to see which one is followed."""
    num_reasoned: int = 64
    """Clips, drawn by the seed, that are reasoned about too, to see if the reasoning is true to
    what drove the answer; 0 none, -1 all. With lead=own_reasoning it is all, at no cost."""
    max_completion_length: int = 96
    """Most tokens a reasoning may have."""
    num_resamples: int = 2000
    """Bootstrap resamples of the 95 % intervals."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "max_completion_length", "num_resamples"):
            require(self.__dict__[key] >= 1, f"task.{key}", self.__dict__[key], "1 or more")
        require(self.max_clips >= 0, "task.max_clips", self.max_clips, "0 (all) or more")
        require(
            self.num_reasoned >= -1,
            "task.num_reasoned",
            self.num_reasoned,
            "-1 (all), or 0 or more",
        )
        require(bool(self.splits), "task.splits", self.splits, "at least one split")
        for key, choices in (
            ("absent", ("drop", "silence_grey", "other_clip")),
            ("value", ("log_prob", "prob")),
            ("lead", ("direct", "empty_think", "own_reasoning")),
        ):
            seen = self.__dict__[key]
            require(seen in choices, f"task.{key}", seen, f"one of {', '.join(choices)}")


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
class CheckTask:
    """Opens every clip of a data set and holds its counts against the published ones."""

    name: str = "check"
    splits: list[str] = field(default_factory=list)
    """Splits to check; empty checks all that the data set has."""
    max_listed: int = 10
    """Bad clips printed a split; check.json lists all."""

    def __post_init__(self) -> None:
        require(self.max_listed >= 0, "task.max_listed", self.max_listed, "0 or more")


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
class ExportTask:
    """Merges adapters into their base and writes a checkpoint that stands alone."""

    name: str = "export"
    to: str = MISSING
    """The folder to write; must not exist."""
    layout: str = "omni"
    """File layout: "omni" (this project's), or "humanomni" for what HumanOmni's code reads."""

    def __post_init__(self) -> None:
        require(
            self.layout in ("omni", "humanomni"), "task.layout", self.layout, "omni or humanomni"
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
    logger: Any = MISSING
    callbacks: Any = MISSING
    paths: PathsConfig = MISSING
    feature_cache: FeatureCacheConfig = field(default_factory=FeatureCacheConfig)
    name: str = MISSING
    """The experiment's name: runs go to ``outputs/<name>/<date_time>``."""
    seed: int = 0
    """Of weights, data order and sampling."""
    resume: str | None = None
    """"latest" or a run's folder: goes on where that run stopped."""
    video: str | None = None
    """Of task=predict: a video file, a folder of them, or a glob."""
    audio: str | None = None
    """Of task=predict: sound files likewise; beside ``video``, they replace the videos' sound."""


def _require_penalty(value: float) -> None:
    require(1 <= value < float("inf"), "task.repetition_penalty", value, "1 (off) or more")
