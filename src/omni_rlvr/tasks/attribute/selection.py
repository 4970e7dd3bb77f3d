"""Which clips a reader is shown: by rules that are declared before anything is looked at.

* most confident right: right answers with the highest p(answer | the whole clip);
* most confident wrong: wrong ones with the highest;
* largest conflict: clips whose sound and picture, each alone, give the most different answers:
  the total variation 1/2 sum |p(. | sound) - p(. | picture)|, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

RIGHT, WRONG, CONFLICT = RULES = (
    "most confident right",
    "most confident wrong",
    "largest conflict",
)


def measured(
    table: pd.DataFrame, distributions: pd.DataFrame, labels: Sequence[str]
) -> pd.DataFrame:
    """Adds what the rules rank by.

    Args:
        table: N rows of ``attribution.clip_table``.
        distributions: ``attribution.distribution_table`` of the same clips.
        labels: the label list.

    Returns:
        clip, right, ``confidence`` of the answer and ``conflict``; the latter is NaN for a clip
        that lacks a modality, and both are NaN where nothing was scored.
    """
    by_subset = {
        subset: distributions[distributions.subset == subset].set_index("clip")[list(labels)]
        for subset in ("audio", "video", "both")
    }
    by_subset = {subset: part.loc[table["clip"]] for subset, part in by_subset.items()}
    differ = (by_subset["audio"] - by_subset["video"]).abs().sum(axis=1, skipna=False) / 2
    whole = (table.has_audio & table.has_video).to_numpy()
    return pd.DataFrame(
        {
            "clip": table["clip"].to_numpy(),
            "right": (table.predicted == table.label).to_numpy(),
            "confidence": by_subset["both"].max(axis=1).to_numpy(),
            "conflict": differ.where(whole).to_numpy(),
        }
    )


def choose(clips: pd.DataFrame, *, num_chosen: int) -> dict[str, list[str]]:
    """Takes the first clips by each rule.

    Args:
        clips: from ``measured``.
        num_chosen: most clips a rule.

    Returns:
        Clip -> the rules that chose it, in the order of ``RULES``; ties go by name.
    """
    ranked = {
        RIGHT: clips[clips.right].dropna(subset="confidence"),
        WRONG: clips[~clips.right].dropna(subset="confidence"),
        CONFLICT: clips.dropna(subset="conflict"),
    }
    chosen: dict[str, list[str]] = {}
    for rule, part in ranked.items():
        by = "conflict" if rule == CONFLICT else "confidence"
        order = part.sort_values([by, "clip"], ascending=[False, True])
        for clip in order["clip"].head(num_chosen):
            chosen.setdefault(clip, []).append(rule)
    return chosen
