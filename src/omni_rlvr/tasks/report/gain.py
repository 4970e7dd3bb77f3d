"""Decompose a gain of WAR into recognition and vocabulary.

Let C be the number of clips for which the label that is most likely after the model's own reasoning
is right; U, O and W the numbers of these clips for which the generated answer is unparseable,
outside the list, or another label; and N the number of other clips that it gets right:

    right answers = C - U - O - W + N

So the gain of one model over another, on the same clips, is the sum of five differences:
recognition (C) and vocabulary (U, O, W and N).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omni_rlvr.functional.bootstrap import mean_interval
from omni_rlvr.tasks.report.baseline import CONFIDENCE

Rows = Sequence[Mapping[str, Any]]
"""Rows of a predictions.jsonl of task=evaluate."""
LOST = ("unparseable", "outside", "another_label")
"""The outcomes of clips whose chosen label is right and whose generated answer is wrong."""
NUM_RESAMPLES = 2000


def gain_parts(first: Rows, second: Rows) -> dict[str, int]:
    """Decompose how many more clips the second model answers right than the first.

    Args:
        first: Rows of predictions.jsonl of one model.
        second: Those of the other model, of the same clips.

    Returns:
        Numbers of clips: ``gain``, and the five differences that add up to it; only the gain
        without scored labels.
    """
    first, second = paired_rows(first, second)
    hits = [sum(row["correct"] for row in rows) for rows in (first, second)]
    parts = {"gain": hits[1] - hits[0], "num_clips": len(first)}
    if not all("outcome" in row for row in (*first, *second)):
        return parts
    before, after = (Counter(row["outcome"] for row in rows) for rows in (first, second))
    more = {name: after[name] - before[name] for name in (*LOST, "right", "won")}
    lost = {name: -more[name] for name in LOST}  # fewer losses are a gain
    recognition = more["right"] + sum(more[name] for name in LOST)
    return {**parts, "recognition": recognition, **lost, "won": more["won"]}


def differences(first: Rows, second: Rows) -> dict[str, dict[str, float]]:
    """Compute the second model's WAR minus the first's, in points, with paired 95 % intervals.

    Args:
        first: Rows of predictions.jsonl of one model.
        second: Those of the other model, of the same clips.

    Returns:
        "war", and "chosen_war" where labels were scored, -> ``difference``, ``low`` and ``high``.
    """
    pairs = list(zip(*paired_rows(first, second), strict=True))
    columns = {"war": [float(b["correct"]) - float(a["correct"]) for a, b in pairs]}
    if all("chosen" in row for pair in pairs for row in pair):
        columns["chosen_war"] = [
            float(b["chosen"] == b["label"]) - float(a["chosen"] == a["label"]) for a, b in pairs
        ]
    found = mean_interval(
        torch.tensor(list(columns.values())).T,
        num_resamples=NUM_RESAMPLES,
        confidence=CONFIDENCE,
        seed=0,
    )
    named = zip(columns, *((100 * part).tolist() for part in found), strict=True)
    return {
        name: {"difference": round(mean, 2), "low": round(low, 2), "high": round(high, 2)}
        for name, mean, low, high in named
    }


def paired_rows(first: Rows, second: Rows) -> tuple[Rows, Rows]:
    """Sort the rows of two models by the clips that both have."""
    one, other = ({row["id"]: row for row in rows} for rows in (first, second))
    shared = sorted(one.keys() & other.keys())
    return [one[name] for name in shared], [other[name] for name in shared]
