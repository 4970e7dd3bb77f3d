"""The labels that a task shows probabilities over."""

from __future__ import annotations

from collections.abc import Sequence

from omni_rlvr.config.dataset import DatasetConfig
from omni_rlvr.models.policy import Policy
from omni_rlvr.text.parse import nfc, normalise_label
from omni_rlvr.types import require


def probability_labels(own: Sequence[str], dataset: DatasetConfig, policy: Policy) -> list[str]:
    """Takes the task's own labels, or else the data set's.

    Raises:
        UserError: there are none, two are the same, or one holds a special token of the policy.
    """
    key = "task.labels" if own else "dataset.labels"
    labels = [nfc(label) for label in own or dataset.labels]
    different = len({normalise_label(label) for label in labels} - {""}) == len(labels)
    require(bool(labels) and different, key, labels, "different labels, at least one")
    for label in labels:
        policy.processor.check_text(label, key)
    return labels
