"""What a person chooses of data and modality: dataclasses that are their own Hydra schemas.

``"???"`` is Hydra's mark for a value that must be given. No torch is imported: the command line
reads this file first.
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
    """Which parts of a clip are used, in training and evaluation alike."""

    name: str = "???"
    video: bool = True
    audio: bool = True

    def __post_init__(self) -> None:
        require(self.video or self.audio, "modality", self.name, "video, audio, or both must be on")


@dataclass
class FeatureCacheConfig:
    """Keeps frozen towers' features on disk, for every epoch, ablation and evaluation."""

    enabled: bool = True
    """A tower that trains switches it off, and says so."""
    folder: str = "${paths.data_root}/features"
    """Holds a folder for each tower, processor and dtype; any of it may be deleted."""
    dtype: str = "bfloat16"
    """What features are rounded to: "bfloat16", "float16" or "float32"."""
    max_gb: float = 20.0
    """Size, in 10^9 bytes, at which nothing is added; half is for picture, half for sound."""

    def __post_init__(self) -> None:
        check = field_check(self, "feature_cache")
        known = self.dtype in ("bfloat16", "float16", "float32")
        check("dtype", known, "bfloat16, float16 or float32")
        check("max_gb", 0 < self.max_gb < math.inf, "greater than 0")


@dataclass
class DatasetConfig:
    """Where clips and labels come from, and how clips are read."""

    name: str = "???"
    splits: dict[str, Any] = field(default_factory=dict)
    """Split name -> reader (a ``_target_`` with ``read()``)."""
    labels: list[str] = field(default_factory=list)
    """The fixed label list that WAR and UAR are over."""
    root: str = "???"
    """The folder in front of every clip path, where a data set's readers take one."""
    annotations: dict[str, str] = field(default_factory=dict)
    """Split name -> annotation file, where a data set's readers take one."""
    train_split: str = "???"
    """The split a stage trains on."""
    max_train_examples: int = -1
    """Trains on the first examples of the split only; -1 takes all."""
    on_bad_media: str = "raise"
    """What to do with a clip that cannot be read: "raise", or "skip" it (its whole group goes,
    counted and named)."""
    decode_timeout_s: float = 20.0
    """Most seconds reading one clip may take."""
    max_clips_per_process: int = 2000
    """Clips after which a decoding process is replaced: decord leaks memory."""
    max_frame_pixels: int = Limits.max_frame_pixels
    """Most pixels a frame may have; 4096 x 4096 admits 4K."""
    max_frames: int = Limits.max_frames
    """Most frames a picture may have: 500,000 are 2.3 hours at 60 a second."""
    max_duration_s: float = Limits.max_duration_s
    """Most seconds a clip may last."""
    min_sample_rate: int = Limits.min_sample_rate
    """Least samples of sound a second, in the file."""
    max_sample_rate: int = Limits.max_sample_rate
    """Most samples of sound a second, in the file."""
    max_streams: int = Limits.max_streams
    """Most streams a file may hold: pictures, sounds, subtitles, attachments."""
    max_memory_gb: float = Limits.max_memory_gb
    """Most gigabytes (of 1e9 bytes) that a process may take for reading one clip; the file itself
    counts, since it is read whole."""
    num_workers: int = 2
    """Processes that read clips ahead, for each device; 0 reads in the main process."""
    published: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the release says of itself, for task=check: split (or ``split/fold``) -> official label,
    or ``total`` -> number of clips, or [least, most]."""
    published_source: str = ""
    """Where these numbers stand."""
    published_scores: dict[str, list[float]] = field(default_factory=dict)
    """Method -> [WAR, UAR] in percent, shown beside an evaluation's."""
    published_scores_note: str = ""
    """Where they stand, on which clips and labels they are."""
    known_bad: list[str] = field(default_factory=list)
    """Ids of clips that are known to be broken in the release itself."""
    layout: dict[str, Any] = field(default_factory=dict)
    """What this data set's readers offer beside; see its YAML."""

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
        """How much one clip may ask for."""
        return Limits.of(vars(self))


def lacks_file(dataset: DatasetConfig, split: str) -> bool:
    """Tell whether a split wants an annotation file and was given none."""
    return "annotations" in dataset.splits[split] and not dataset.annotations.get(split, "?")


@dataclass
class OfficialConfig(DatasetConfig):
    """A data set that was released with its own layout, labels and folds."""

    fold: int | None = None
    """Whose clips are the test split, where the data set has folds; others are trained on."""
    folds: list[int] = field(default_factory=list)
    """The folds there are; empty for a data set without."""
    words: str = "???"
    """Which of ``label_maps`` is used."""
    label_maps: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """Name -> official label -> our word, in official order; null leaves such clips out."""
    label_base: int | None = None
    """The number of the first class, 0 or 1, where labels are numbers; null finds out."""
    question: str = EMOTION_QUESTION
    """The question that is asked about every clip."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check = field_check(self, "dataset")
        fits = self.fold in self.folds if self.folds else self.fold is None
        there = ", ".join(map(str, self.folds)) or "none, leave it null"
        check("fold", fits, f"the folds of {self.name} are {there}")
        check("label_base", self.label_base in (None, 0, 1), "0, 1 or null")
