"""Read a split of the synthetic data set; make its clips first if they do not exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omni_rlvr.data.readers.annotated import AnnotationReader
from omni_rlvr.data.synthetic.generate import ANNOTATIONS, ensure_split
from omni_rlvr.types import Example


@dataclass
class SyntheticReader:
    """One split, in the R1-Omni annotation format."""

    split: str
    root: str
    labels: Sequence[str] | None
    num_clips: int
    seed: int
    num_workers: int

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
