"""Select the clips that the page shows, by rules that are fixed before looking at any clip.

* most confident right: right answers with the highest p(answer | the whole clip);
* most confident wrong: wrong answers with the highest p(answer | the whole clip);
* largest conflict: clips whose sound and picture, each alone, give the most different answers:
  the total variation 1/2 sum |p(. | sound) - p(. | picture)|, from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

RULES = ("most confident right", "most confident wrong", "largest conflict")
RIGHT, WRONG, CONFLICT = RULES


def measured(
    table: pd.DataFrame, distributions: pd.DataFrame, labels: Sequence[str]
) -> pd.DataFrame:
    """Compute the quantities by which the rules rank.

    Args:
        table: N rows of ``tables.clip_table``.
        distributions: ``tables.distribution_table`` of the same clips.
        labels: the label list.

    Returns:
        clip, right, ``confidence`` of the answer and ``conflict``; the latter is NaN for a clip
        that lacks a modality, and both are NaN where nothing was scored.
    """
    by_subset = distributions.set_index(["subset", "clip"])[list(labels)]
    audio, video, both = (
        by_subset.loc[subset].loc[table["clip"]].reset_index(drop=True)
        for subset in ("audio", "video", "both")
    )
    ranked = table[["clip"]].reset_index(drop=True)
    ranked["right"] = (table.predicted == table.label).to_numpy()
    ranked["confidence"] = both.max(axis=1)
    differ = (audio - video).abs().sum(axis=1, skipna=False) / 2
    ranked["conflict"] = differ.where((table.has_audio & table.has_video).to_numpy())
    return ranked


def choose(clips: pd.DataFrame, *, num_chosen: int) -> dict[str, list[str]]:
    """Select the first clips by each rule.

    Args:
        clips: from ``measured``.
        num_chosen: most clips a rule.

    Returns:
        Clip -> the rules that selected it, in the order of ``RULES``; ties go by name.
    """
    ranked = {
        RIGHT: (clips[clips.right], "confidence"),
        WRONG: (clips[~clips.right], "confidence"),
        CONFLICT: (clips, "conflict"),
    }
    selection: dict[str, list[str]] = {}
    for rule, (part, by) in ranked.items():
        order = part.dropna(subset=by).sort_values([by, "clip"], ascending=[False, True])
        for clip in order["clip"].head(num_chosen):
            selection.setdefault(clip, []).append(rule)
    return selection
