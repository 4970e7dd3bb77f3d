"""The options of data sets, modalities and the feature cache: dataclasses that are Hydra schemas.

``"???"`` is Hydra's mark for a value that must be given. This file imports no torch, because the
command line reads it before anything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from omni_rlvr.media.limits import Limits
from omni_rlvr.text.parse import nfc
from omni_rlvr.text.prompts import EMOTION_QUESTION
from omni_rlvr.types import field_check, require


@dataclass
class ModalityConfig:
    """Which modalities of a clip are used, in training and in evaluation."""

    name: str = "???"
    """The name that tables and folders of sweeps show."""
    video: bool = True
    """Whether the model sees the picture of a clip."""
    audio: bool = True
    """Whether the model hears the sound of a clip."""

    def __post_init__(self) -> None:
        require(self.video or self.audio, "modality", self.name, "video, audio, or both must be on")


@dataclass
class FeatureCacheConfig:
    """Keep the features of frozen towers on disk, for every epoch, ablation and evaluation."""

    enabled: bool = True
    """Whether there is a cache. It is off while a tower trains, which the log says."""
    folder: str = "${paths.data_root}/features"
    """The folder of the cache, with a folder in it for each tower, processor and dtype. All of it
    may be deleted at any time."""
    dtype: str = "bfloat16"
    """The type that features are rounded to: "bfloat16", "float16" or "float32"."""
    max_gb: float = 20.0
    """The size, in 10^9 bytes, from which on nothing is added; half is for pictures, half for
    sounds."""

    def __post_init__(self) -> None:
        check = field_check(self, "feature_cache")
        known = self.dtype in ("bfloat16", "float16", "float32")
        check("dtype", known, "bfloat16, float16 or float32")
        check("max_gb", 0 < self.max_gb < math.inf, "greater than 0")


@dataclass
class DatasetConfig:
    """Where clips and labels come from, and how clips are read."""

    name: str = "???"
    """The name that run.json, tables and reports give the data set."""
    splits: dict[str, Any] = field(default_factory=dict)
    """Split name -> its reader: a ``_target_`` with a method ``read()``."""
    labels: list[str] = field(default_factory=list)
    """The list of labels that WAR, UAR and weighted F1 are computed over."""
    root: str = "???"
    """The folder that the paths of clips are relative to, if the readers of the data set use one.
    """
    annotations: dict[str, str] = field(default_factory=dict)
    """Split name -> annotation file, if the readers of the data set use one."""
    train_split: str = "???"
    """The split that a stage trains on."""
    max_train_examples: int = -1
    """Train on only this many examples of the split, the first ones; -1 takes all."""
    on_bad_media: str = "raise"
    """What to do about a clip that cannot be read: "raise" an error, or "skip" it with its whole
    group of completions. Skipped clips are counted and named in run.json."""
    decode_timeout_s: float = 20.0
    """The most seconds that reading one clip may take."""
    max_clips_per_process: int = 2000
    """The number of clips after which a decoding process is replaced, because decord leaks memory.
    """
    max_frame_pixels: int = Limits.max_frame_pixels
    """The most pixels that a frame may have; 4096 x 4096 admits 4K."""
    max_frames: int = Limits.max_frames
    """The most frames that a clip may have; 500,000 are 2.3 hours at 60 frames per second."""
    max_duration_s: float = Limits.max_duration_s
    """The most seconds that a clip may last."""
    min_sample_rate: int = Limits.min_sample_rate
    """The lowest sample rate that the sound in a file may have, in Hz."""
    max_sample_rate: int = Limits.max_sample_rate
    """The highest sample rate that the sound in a file may have, in Hz."""
    max_streams: int = Limits.max_streams
    """The most streams that a file may hold: pictures, sounds, subtitles, attachments."""
    max_memory_gb: float = Limits.max_memory_gb
    """The most memory that a process may take for reading one clip, in 10^9 bytes. The file itself
    counts, because it is read as a whole."""
    num_workers: int = 2
    """The number of processes for each device that read clips ahead; 0 reads in the main process.
    """
    published: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The published numbers of clips, for task=check: split (or ``split/fold``) -> official label
    (or ``total``) -> number, or [least, most]."""
    published_source: str = ""
    """Where these numbers were published."""
    published_scores: dict[str, list[float]] = field(default_factory=dict)
    """Method -> its published [WAR, UAR] in percent, shown beside those of an evaluation."""
    published_scores_note: str = ""
    """Where these scores were published, and on which clips and labels."""
    known_bad: list[str] = field(default_factory=list)
    """The ids of clips that are known to be broken in the release itself."""
    layout: dict[str, Any] = field(default_factory=dict)
    """Further options of this data set's readers; its YAML explains them."""

    def __post_init__(self) -> None:
        self.labels = [nfc(label) for label in self.labels]
        check = field_check(self, "dataset")
        check("on_bad_media", self.on_bad_media in ("raise", "skip"), "raise or skip")
        check("max_clips_per_process", self.max_clips_per_process >= 1, "1 or more")
        limit = self.max_train_examples
        check("max_train_examples", limit == -1 or limit >= 1, "-1 (all), or 1 or more")
        for name in ("decode_timeout_s", *vars(self.limits)):
            check(name, 0 < vars(self)[name] < math.inf, "greater than 0")
        for method, pair in self.published_scores.items():
            key = f"dataset.published_scores.{method}"
            require(len(pair) == 2, key, pair, "[WAR, UAR] in percent")
        check("num_workers", self.num_workers >= 0, "0 or more")

    @property
    def limits(self) -> Limits:
        """The limits on what one clip may require."""
        return Limits.of(vars(self))


def lacks_file(dataset: DatasetConfig, split: str) -> bool:
    """Tell whether a split needs an annotation file and none was given."""
    return "annotations" in dataset.splits[split] and not dataset.annotations.get(split, "?")


@dataclass
class OfficialConfig(DatasetConfig):
    """A data set that was released with its own layout, labels and folds."""

    fold: int | None = None
    """The fold whose clips are the test split, if the data set has folds; the others are for
    training."""
    folds: list[int] = field(default_factory=list)
    """The folds of the data set; empty if it has none."""
    words: str = "???"
    """The name of the label map that is used, of those in ``label_maps``."""
    label_maps: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """Name -> official label -> the word that stands for it here, in the official order. null
    leaves the clips of that label out."""
    label_base: int | None = None
    """The number of the first class, 0 or 1, if labels are numbers; null finds it in the file."""
    question: str = EMOTION_QUESTION
    """The question that is asked about every clip."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check = field_check(self, "dataset")
        fits = self.fold in self.folds if self.folds else self.fold is None
        there = ", ".join(map(str, self.folds)) or "none, leave it null"
        check("fold", fits, f"the folds of {self.name} are {there}")
        check("label_base", self.label_base in (None, 0, 1), "0, 1 or null")
