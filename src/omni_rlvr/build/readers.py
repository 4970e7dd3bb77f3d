"""Reads a split of a data set, and warns where it holds less than was released."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from omni_rlvr.analysis.check import fewer_than_published
from omni_rlvr.build.config import make
from omni_rlvr.data.options import DatasetConfig, lacks_file
from omni_rlvr.types import Example, UserError

log = logging.getLogger(__name__)


def read_split(dataset: DatasetConfig, split: str) -> Sequence[Example]:
    """Read a split's examples.

    Raises:
        UserError: there is no such split, its annotation file is not given, or it is wrong.
    """
    if split not in dataset.splits:
        raise UserError(
            f"dataset={dataset.name} has no split {split!r}; it has {', '.join(dataset.splits)}"
        )
    if lacks_file(dataset, split):
        key = f"dataset.annotations.{split}"
        raise UserError(f"{key} must be given, e.g. {key}=FILE")
    examples: Sequence[Example] = make(dataset.splits[split]).read()
    if (short := fewer_than_published(split, examples, dataset)) is not None:
        log.warning(short)
    return examples
