"""Read a split of the synthetic data set; if its clips do not exist, make them first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omni_rlvr.data.readers.annotated import AnnotationReader
from omni_rlvr.data.synthetic.generate import ANNOTATIONS, ensure_split, split_folder
from omni_rlvr.types import Example


@dataclass(frozen=True)
class SyntheticReader:
    """Reads a split, in the R1-Omni annotation format.

    Args:
        split: "caption", "cold_start", "rlvr", "test" or "ood".
        root: The folder for all versions of the data set.
        labels: The answers that may occur; None for any (captions).
        num_clips: The number of clips in the split.
        seed: The seed of the data set, which is not that of the run.
        num_workers: The number of processes that make clips.
    """

    split: str
    root: str
    labels: Sequence[str] | None
    num_clips: int
    seed: int
    num_workers: int

    def is_made(self) -> bool:
        """Tell whether the clips exist, so that reading does not have to make them."""
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
        file = str(folder / ANNOTATIONS)
        return AnnotationReader("r1_omni", file, str(folder), self.labels, self.seed).read()
