"""Gather a pipeline's scores into summary.json, one table and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from omni_rlvr.data.synthetic.emotions import CUES, LABELS, oracle_label
from omni_rlvr.record import read_jsonl, write_json
from omni_rlvr.tasks.report import plots
from omni_rlvr.tasks.report.drawing import model_colours, spared
from omni_rlvr.tasks.report.text_tables import summary_markdown
from omni_rlvr.types import Example

Scores = Mapping[str, Mapping]


def oracle_scores(examples: Mapping[str, Sequence[Example]]) -> dict[str, dict[str, float]]:
    """Score the oracle that is given the true cue values, on every split that knows them.

    Args:
        examples: split name -> examples.

    Returns:
        Split name -> {"war": percent}; empty where cues are not known.
    """
    out = {}
    for split, rows in examples.items():
        known = [
            row.answer in LABELS and row.cues.keys() <= CUES.keys() for row in rows if row.cues
        ]
        if rows and len(known) == len(rows) and all(known):
            hits = sum(oracle_label(row.cues) == row.answer for row in rows)
            out[split] = {"war": round(100 * hits / len(rows), 2)}
    return out


def summarise(
    models: Mapping[str, Scores],
    modality: Scores,
    oracle: Mapping[str, Mapping[str, float]],
    seconds: Mapping[str, float],
) -> dict:
    """Select from all scores what a reader compares, in percent."""
    shown = ("war", "uar", "format", "war_ci")
    return {
        "models": {
            name: {split: {key: s[key] for key in shown} for split, s in splits.items()}
            for name, splits in models.items()
        },
        "modality": {name: {"war": scores["war"]} for name, scores in modality.items()},
        "oracle": dict(oracle),
        "seconds": dict(seconds),
    }


def write_summary(
    folder: Path,
    summary: Mapping,
    models: Mapping[str, Scores],
    stages: Mapping[str, Path],
    labels: Sequence[str],
) -> list[Path]:
    """Write summary.json, summary.md and the pictures; return the files that were written.

    Args:
        folder: the pipeline's run folder.
        summary: from ``summarise``.
        models: model name -> split -> scores.
        stages: stage name -> its run folder, for the learning curves.
        labels: the label list.
    """
    write_json(folder / "summary.json", summary)
    (folder / "summary.md").write_text(summary_markdown(summary) + "\n", encoding="utf-8")
    pictures = [folder / "summary.png", folder / "learning_curves.png"]
    colours = model_colours([*models, *stages])
    with spared(pictures[0]):
        plots.summary_bars(summary, pictures[0], chance=100 / len(labels), colours=colours)
    with spared(pictures[1]):
        curves = {name: read_jsonl(run / "metrics.jsonl") for name, run in stages.items()}
        plots.learning_curves(curves, pictures[1], colours=colours)
    for split in next(iter(models.values())):
        recalls = {
            name: [float("nan") if r is None else r / 100 for r in splits[split]["recall"].values()]
            for name, splits in models.items()
        }
        pictures.append(folder / f"recall_{split}.png")
        with spared(pictures[-1]):
            plots.recall_bars(recalls, labels, pictures[-1], split=split, colours=colours)
    drawn = [picture for picture in pictures if picture.exists()]
    return [folder / "summary.json", folder / "summary.md", *drawn]
