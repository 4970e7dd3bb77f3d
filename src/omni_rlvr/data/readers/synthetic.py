"""Read a split of the synthetic data set; make its clips first if they do not exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omni_rlvr.data.readers.annotated import AnnotationReader
from omni_rlvr.data.synthetic.generate import ANNOTATIONS, ensure_split, split_folder
from omni_rlvr.types import Example


class SyntheticReader:
    """One split, in the R1-Omni annotation format."""

    def __init__(
        self,
        split: str,
        root: str,
        labels: Sequence[str] | None,
        num_clips: int,
        seed: int,
        num_workers: int,
    ):
        """Hold the settings.

        Args:
            split: "caption", "cold_start", "rlvr", "test" or "ood".
            root: folder for all versions of the data set.
            labels: the label list; None takes any answer (captions).
            num_clips: how many clips the split has.
            seed: of the data set, apart from the run's.
            num_workers: processes that make clips.
        """
        self.split = split
        self.root = root
        self.labels = labels
        self.num_clips = num_clips
        self.seed = seed
        self.num_workers = num_workers

    def is_made(self) -> bool:
        """Say whether reading finds the clips there, and need not make them."""
        folder = split_folder(Path(self.root), self.split, self.num_clips, self.seed)
        return (folder / ANNOTATIONS).exists()

    def read(self) -> Sequence[Example]:
        """Make the clips if needed and read their annotations."""
        folder = ensure_split(
            Path(self.root),
            self.split,
            num_clips=self.num_clips,
            seed=self.seed,
            num_workers=self.num_workers,
        )
        return AnnotationReader(
            "r1_omni", str(folder / ANNOTATIONS), str(folder), self.labels, self.seed
        ).read()
