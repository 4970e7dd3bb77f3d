"""An evaluation beside published scores of the same data set, with what may differ said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omni_rlvr.config.dataset import DatasetConfig, OfficialConfig
from omni_rlvr.tasks.report.cells import markdown_cell


def published_markdown(scores: Mapping[str, Mapping[str, Any]], dataset: DatasetConfig) -> str:
    """Lays out WAR and UAR of each split below the published ones, as Markdown.

    Args:
        scores: split -> scores of an evaluation, in percent.
        dataset: its ``published_scores``, labels and fold.

    Returns:
        A table, then the fold, the label list and where the published scores are from.
    """
    rows: list[tuple[str, ...]] = [
        ("method", "clips", "WAR", "UAR"),
        (":---", "---:", "---:", "---:"),
    ]
    for method, (war, uar) in dataset.published_scores.items():
        rows.append((markdown_cell(method), "", f"{war:.2f}", f"{uar:.2f}"))
    for split, found in scores.items():
        low, high = found["war_ci"]
        ours = f"**{found['war']:.2f}** [{low:.1f}, {high:.1f}]"
        rows.append(
            (
                f"**this run**, {markdown_cell(split)}",
                f"{found['num_clips']:,}",
                ours,
                f"{found['uar']:.2f}",
            )
        )
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in rows)
    where = dataset.name
    if isinstance(dataset, OfficialConfig) and dataset.fold is not None:
        where += f", fold {dataset.fold} of {dataset.folds}"
    labels = f"{len(dataset.labels)} labels: {', '.join(dataset.labels)}"
    return f"{table}\n\nthis run: {where}; {labels}\npublished: {dataset.published_scores_note}\n"
