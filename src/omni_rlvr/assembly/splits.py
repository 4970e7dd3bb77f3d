"""Read the splits of a data set, and warn if one has fewer clips than its release."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omni_rlvr.assembly.composed import Clips, Composed
from omni_rlvr.assembly.instantiate import make
from omni_rlvr.config.dataset import DatasetConfig, OfficialConfig, lacks_file
from omni_rlvr.data.annotations.example_table import ExampleTable, distinct, texts
from omni_rlvr.text.questions import KIND
from omni_rlvr.types import Example, UserError

log = logging.getLogger(__name__)

THINK = "<think>"
"""What a target that reasons begins with, and what an instruction that asks for it names."""
TOTAL = "total"
"""The key of the sum among the published counts of labels."""


def read_clips(composed: Composed, splits: Iterable[str]) -> Clips:
    """Read the examples of several splits, each split once; see ``read_split``."""
    examples = {name: read_split(composed.dataset, name) for name in dict.fromkeys(splits)}
    return Clips(composed.dataset, composed.modality, examples)


def read_split(dataset: DatasetConfig, split: str) -> Sequence[Example]:
    """Read a split's examples.

    Raises:
        UserError: There is no such split, or its annotation file is not given or is wrong.
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


def check_gold_labels(clips: Clips, splits: Iterable[str]) -> None:
    """Check before the slow model load that each gold answer is a label, as evaluation needs it.

    Raises:
        UserError: A gold answer is not one of the labels; the message names its row.
    """
    labels = clips.dataset.labels
    for split in splits:
        for example in distinct(clips.examples[split], ("answer", "cues")):
            if KIND not in example.cues and example.answer not in labels:
                raise UserError(
                    f"{example.source}: the split {split!r} cannot be evaluated: its answer "
                    f"{example.answer!r} is not one of dataset.labels=[{', '.join(labels)}]"
                )


def check_reasoning(examples: Sequence[Example], split: str, instruction: str | None) -> str:
    """Count the targets that training learns to write by whether they reason.

    Args:
        examples: Those that are trained on.
        split: Their split.
        instruction: ``model.instruction``.

    Returns:
        What is said of them.

    Raises:
        UserError: The instruction asks for reasoning, and no target has any.
    """
    number = sum(THINK in target for _, _, _, target in texts(examples))
    if number == 0 and THINK in (instruction or ""):
        raise UserError(
            f"{examples[0].source}: no example of the split {split!r} has reasoning, which "
            "model.instruction asks for; write it into the targets (of dataset=csv: into the "
            "column reasoning), or train on labels alone with +experiment=sft_labels or "
            "model.instruction=''"
        )
    alone = len(examples) - number
    return f"targets: {number:,} with reasoning, {alone:,} of the label alone"


def published_counts(
    published: Mapping[str, Mapping[str, Any]],
    split: str,
    fold: int | None,
    label_map: Mapping[str, str | None] | None,
) -> dict[str, Any]:
    """Look up the published counts of a split, or of its fold if there are any, by our labels.

    The counts of official labels that map to one of our labels are added up.
    """
    official = published.get(f"{split}/{fold}", published.get(split, {}))
    counts: dict[str, Any] = {}
    for label, number in official.items():
        word = label if label_map is None or label == TOTAL else label_map[label]
        if word is not None:
            counts[word] = counts[word] + number if word in counts else number
    return counts


def fewer_than_published(
    split: str, examples: Sequence[Example], dataset: DatasetConfig
) -> str | None:
    """Write a message if a split has fewer clips than its release; else return None."""
    published = published_of(split, dataset)
    if TOTAL in published:
        found, wanted = len(examples) + sum(num_left_out(examples).values()), published[TOTAL]
        least = wanted[0] if isinstance(wanted, list) else wanted
    else:
        found, least = len(examples), sum(published.values())
    if found >= least:
        return None
    return (
        f"dataset={dataset.name}: {found:,} of {least:,} published clips of the split {split!r} "
        f"were found below {dataset.root}; unpack the rest there, or go on with these; "
        "task=check counts them by label"
    )


def published_of(split: str, dataset: DatasetConfig) -> dict[str, Any]:
    """Return the published counts of a split by our labels; empty if none were published."""
    fold, label_map = None, None
    if isinstance(dataset, OfficialConfig):
        fold, label_map = dataset.fold, dataset.label_maps[dataset.words]
    return published_counts(dataset.published, split, fold, label_map)


def num_left_out(examples: Sequence[Example]) -> dict[str, int]:
    """Count the rows of a split that the reader left out, by reason."""
    return examples.left_out if isinstance(examples, ExampleTable) else {}
