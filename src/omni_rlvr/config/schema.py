"""What a person tunes: one dataclass a group, which is its own Hydra schema.

A typo or a wrong type fails while Hydra composes; ranges are checked in ``__post_init__``, first
thing in ``build``. Each default lives here or in the option's YAML and nowhere else. No torch is
imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from omni_rlvr.types import UserError


def _check(condition: bool, key: str, value: object, wanted: str) -> None:
    if not condition:
        raise UserError(f"{key}={value!r} is out of range: {wanted}")


@dataclass
class SamplingConfig:
    """How completions are sampled."""

    temperature: float = 1.0
    """tau > 0, divides the logits; the log-probabilities of the update use the same."""
    top_p: float = 1.0
    """Nucleus mass in (0, 1]; 1 keeps all tokens."""
    top_k: int = 0
    """Keeps the k most probable tokens; 0 keeps all."""
    max_completion_length: int = 96
    """Most tokens a completion may have, its end token included."""

    def __post_init__(self) -> None:
        _check(
            self.temperature > 0, "stage.sampling.temperature", self.temperature, "greater than 0"
        )
        _check(0 < self.top_p <= 1, "stage.sampling.top_p", self.top_p, "in (0, 1]")
        _check(self.top_k >= 0, "stage.sampling.top_k", self.top_k, "0 (off) or more")
        _check(
            self.max_completion_length >= 1,
            "stage.sampling.max_completion_length",
            self.max_completion_length,
            "1 or more tokens",
        )


@dataclass
class LoopConfig:
    """The training loop, the same for every stage."""

    num_train_epochs: float = 1.0
    """Passes over the training split; read when ``max_steps`` is -1."""
    max_steps: int = -1
    """Optimiser rounds (batches of prompts); -1 lets ``num_train_epochs`` decide."""
    batch_size: int = 16
    """Prompts a step."""
    micro_batch_size: int = 16
    """Completions a backward pass; smaller saves memory and changes no gradient."""
    max_grad_norm: float = 1.0
    """Clips the gradient's global norm; 0 switches clipping off."""
    lr_scheduler_type: str = "cosine"
    """Learning rate after warm-up: "cosine" or "linear" to zero, or "constant"."""
    warmup_ratio: float = 0.03
    """Share of the steps over which the learning rate rises from zero."""
    save_steps: int = 100
    """Steps between checkpoints; the last step is always saved."""
    logging_steps: int = 1
    """Steps between lines of metrics.jsonl."""

    @property
    def updates_per_step(self) -> int:
        """Optimiser steps per batch of prompts."""
        return 1

    def __post_init__(self) -> None:
        _check(
            self.num_train_epochs > 0,
            "stage.num_train_epochs",
            self.num_train_epochs,
            "greater than 0",
        )
        _check(
            self.max_steps == -1 or self.max_steps >= 1,
            "stage.max_steps",
            self.max_steps,
            "-1, or 1 or more",
        )
        for key in ("batch_size", "micro_batch_size", "save_steps", "logging_steps"):
            _check(self.__dict__[key] >= 1, f"stage.{key}", self.__dict__[key], "1 or more")
        _check(
            self.max_grad_norm >= 0, "stage.max_grad_norm", self.max_grad_norm, "0 (off) or more"
        )
        _check(
            self.lr_scheduler_type in ("cosine", "linear", "constant"),
            "stage.lr_scheduler_type",
            self.lr_scheduler_type,
            "cosine, linear or constant",
        )
        _check(0 <= self.warmup_ratio < 1, "stage.warmup_ratio", self.warmup_ratio, "in [0, 1)")


@dataclass
class SftConfig(LoopConfig):
    """Supervised fine-tuning on annotated targets: cold start, or the label-only baseline."""

    num_train_epochs: float = 5.0
    """R1-Omni's cold start: 5 epochs."""


@dataclass
class GrpoConfig(LoopConfig):
    """Group-relative policy optimisation as R1-Omni does it (arXiv 2503.05379, 2402.03300)."""

    num_generations: int = 8
    """G, completions a prompt; at least 2, since a group is its own baseline."""
    beta: float = 0.04
    """Weight of the k3 KL to the reference; 0 loads no reference."""
    epsilon: float = 0.2
    """Lower clip range of the probability ratio."""
    epsilon_high: float | None = None
    """Upper clip range; null takes ``epsilon``."""
    num_iterations: int = 1
    """mu, passes over each batch of rollouts."""
    num_minibatches: int = 1
    """Optimiser steps a pass: the batch's rows are split into so many parts, group by group."""
    scale_rewards: str = "group"
    """"group" divides advantages by the group's std, "none" does not."""
    micro_batch_size: int = 64
    """Completions a backward pass; smaller saves memory and changes no gradient."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    @property
    def updates_per_step(self) -> int:
        """Optimiser steps per batch of prompts."""
        return self.num_iterations * self.num_minibatches

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(
            self.num_generations >= 2,
            "stage.num_generations",
            self.num_generations,
            "2 or more, since advantages are relative to the other completions of the group",
        )
        _check(self.beta >= 0, "stage.beta", self.beta, "0 or more")
        _check(0 < self.epsilon < 1, "stage.epsilon", self.epsilon, "in (0, 1)")
        if self.epsilon_high is not None:
            _check(
                self.epsilon_high > 0,
                "stage.epsilon_high",
                self.epsilon_high,
                "greater than 0, or null",
            )
        for key in ("num_iterations", "num_minibatches"):
            _check(self.__dict__[key] >= 1, f"stage.{key}", self.__dict__[key], "1 or more")
        _check(
            self.num_minibatches <= self.batch_size,
            "stage.num_minibatches",
            self.num_minibatches,
            f"at most stage.batch_size={self.batch_size}: "
            "a group is never split over optimiser steps",
        )
        _check(
            self.scale_rewards in ("group", "none"),
            "stage.scale_rewards",
            self.scale_rewards,
            "group or none",
        )


@dataclass
class ModalityConfig:
    """Which parts of a clip are used, in training and evaluation alike."""

    name: str = MISSING
    video: bool = MISSING
    audio: bool = MISSING

    def __post_init__(self) -> None:
        _check(self.video or self.audio, "modality", self.name, "video, audio, or both must be on")


@dataclass
class DatasetConfig:
    """Where clips and labels come from, and how clips are read."""

    name: str = MISSING
    splits: dict[str, Any] = field(default_factory=dict)
    """Split name -> reader (a ``_target_`` with ``read()``)."""
    labels: list[str] = field(default_factory=list)
    """The fixed label list that WAR and UAR are over."""
    root: str | None = None
    """The folder in front of every clip path, where a data set's readers take one."""
    annotations: dict[str, str] = field(default_factory=dict)
    """Split name -> annotation file, where a data set's readers take one."""
    train_split: str = MISSING
    """The split a stage trains on."""
    on_bad_media: str = "raise"
    """What to do with a clip that cannot be read: "raise", or "skip" it (its whole group goes,
    counted and named)."""
    decode_timeout_s: float = 20.0
    """Most seconds reading one clip may take."""
    max_clips_per_process: int = 2000
    """Clips after which a decoding process is replaced: decord leaks memory."""
    num_workers: int = 2
    """Processes that read clips ahead; 0 reads in the main process."""

    def __post_init__(self) -> None:
        _check(
            self.on_bad_media in ("raise", "skip"),
            "dataset.on_bad_media",
            self.on_bad_media,
            "raise or skip",
        )
        _check(
            self.decode_timeout_s > 0,
            "dataset.decode_timeout_s",
            self.decode_timeout_s,
            "greater than 0",
        )
        _check(
            self.max_clips_per_process >= 1,
            "dataset.max_clips_per_process",
            self.max_clips_per_process,
            "1 or more",
        )
        _check(self.num_workers >= 0, "dataset.num_workers", self.num_workers, "0 or more")


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
    max_clips: int = 0
    """Evaluates on the first clips only; 0 takes all."""
    num_resamples: int = 2000
    """Bootstrap resamples of the 95 % interval."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "max_completion_length", "num_resamples"):
            _check(self.__dict__[key] >= 1, f"task.{key}", self.__dict__[key], "1 or more")
        _check(self.max_clips >= 0, "task.max_clips", self.max_clips, "0 (all) or more")
        _check(bool(self.splits), "task.splits", self.splits, "at least one split")


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
        _check(1 <= self.num_clips <= 50, "task.num_clips", self.num_clips, "1 to 50")
        _check(
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
        _check(bool(self.stages), "task.stages", self.stages, "at least one")
        _check(
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
    stage: Any = MISSING
    optimizer: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    callbacks: Any = MISSING
    paths: PathsConfig = MISSING
    name: str = MISSING
    """The experiment's name: runs go to ``outputs/<name>/<date_time>``."""
    seed: int = 0
    """Of weights, data order and sampling."""
    resume: str | None = None
    """"latest" or a run's folder: goes on where that run stopped."""
