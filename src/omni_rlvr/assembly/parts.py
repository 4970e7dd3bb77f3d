"""What ``build`` hands to ``run``: one dataclass a task, all of it checked and made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from torch.optim import Optimizer

from omni_rlvr.config import root
from omni_rlvr.config.dataset import DatasetConfig, ModalityConfig
from omni_rlvr.config.stage import LoopConfig
from omni_rlvr.data.cuts import Cut
from omni_rlvr.data.features.cache import FeatureCache
from omni_rlvr.models.adapters.trainable import Count
from omni_rlvr.models.policy import Policy
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.stages.base import Stage
from omni_rlvr.text.modality_words import Lexicon
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
class TrainParts:
    """All that training a stage needs."""

    place: Place
    clips: Clips
    policy: Policy
    cache: FeatureCache | None
    stage: Stage
    engine: RolloutEngine
    loop: LoopConfig
    make_optimizer: Callable[..., Optimizer]
    make_trainer: Callable[..., pl.Trainer]
    loggers: Mapping[str, partial[Logger]]
    """By their names in ``logger``; each is built when the run begins or goes on."""
    callbacks: Sequence[pl.Callback]
    resume: Path | None
    """The checkpoint that an earlier part of the run left, to go on from; None begins anew."""
    origin: dict[str, str]
    """Digests of the weights and examples that training starts from, for run.json."""
    counts: Sequence[Count]
    """What trains, by part."""
    evaluation: EvaluateParts | None
    """What follows the training, on the trained policy."""


@dataclass(frozen=True)
class EvaluateParts:
    """All that an evaluation needs."""

    place: Place
    clips: Clips
    task: root.EvaluateTask
    policy: Policy
    cache: FeatureCache | None
    engine: RolloutEngine


@dataclass(frozen=True)
class AttributeParts:
    """All that measuring modalities needs."""

    place: Place
    clips: Clips
    task: root.AttributeTask
    policy: Policy
    cache: FeatureCache | None
    engine: RolloutEngine
    lexicon: Lexicon
    reward: Mixture | None
    """Scores completions of chosen clips, where they are asked for."""


@dataclass(frozen=True)
class StartedParts:
    """A run that starts from another run's checkpoint, which may have to be made first."""

    start: Place
    build_start: Callable[[], Parts]
    build: Callable[[], Parts]


@dataclass(frozen=True)
class LaunchParts:
    """A task for several devices: each gets a process, which builds the parts for itself."""

    place: Place
    config: Any
    """The composed config, with every reference in it resolved."""
    devices: Sequence[int]


@dataclass(frozen=True)
class ReportParts:
    """All that a report needs."""

    place: Place
    task: root.ReportTask
    runs: Sequence[str]
    """Folders or globs."""
    html: bool
    """Whether it is the page of what each modality did."""


@dataclass(frozen=True)
class CacheParts:
    """All that filling the feature cache needs."""

    place: Place
    clips: Clips
    task: root.CacheTask
    policy: Policy
    cache: FeatureCache


@dataclass(frozen=True)
class PredictParts:
    """All that answering for clips without labels needs."""

    place: Place
    clips: Clips
    """One split, named "predict"."""
    task: root.PredictTask
    labels: Sequence[str]
    policy: Policy
    cache: FeatureCache | None
    engine: RolloutEngine
    left_out: Mapping[str, Sequence[str]]
    """Why something in the folder or under the glob is not predicted -> the names of such."""

    @property
    def examples(self) -> Sequence[Example]:
        """The clips to predict."""
        return self.clips.examples["predict"]


@dataclass(frozen=True)
class PrepareParts:
    """All that cutting a data set's clips needs."""

    place: Place
    dataset: DatasetConfig
    task: root.PrepareTask
    cuts: Sequence[Cut]
    """One a clip, of all splits."""


@dataclass(frozen=True)
class PreviewParts:
    """All that a sheet of clips needs."""

    place: Place
    clips: Clips
    task: root.PreviewTask


@dataclass(frozen=True)
class CheckParts:
    """All that checking a data set needs."""

    place: Place
    clips: Clips
    task: root.CheckTask
    window_s: float
    """Seconds of sound that the model takes."""


@dataclass(frozen=True)
class PipelineParts:
    """All that a pipeline needs; its steps are composed and built one by one."""

    place: Place
    labels: Sequence[str]
    task: root.PipelineTask


@dataclass(frozen=True)
class ExportParts:
    """All that writing a merged checkpoint needs."""

    place: Place
    task: root.ExportTask
    policy: Policy


@dataclass(frozen=True)
class ServedModel:
    """A model that a page answers with."""

    path: str
    """Where it came from: its name on the page."""
    policy: Policy


@dataclass(frozen=True)
class ServeParts:
    """All that a page for clips needs."""

    place: Place
    clips: Clips
    """How clips are read; one split, "examples", of clips to try."""
    task: root.ServeTask
    labels: Sequence[str]
    models: Sequence[ServedModel]
    """One, or two side by side."""
    lexicon: Lexicon
    engine: RolloutEngine

    @property
    def examples(self) -> Sequence[Example]:
        """The clips to try."""
        return self.clips.examples["examples"]


Parts = (
    TrainParts
    | StartedParts
    | LaunchParts
    | EvaluateParts
    | AttributeParts
    | CacheParts
    | PredictParts
    | PrepareParts
    | PreviewParts
    | CheckParts
    | PipelineParts
    | ExportParts
    | ReportParts
    | ServeParts
)
