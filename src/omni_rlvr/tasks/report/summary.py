"""Write a pipeline's scores to summary.json, summary.md and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omni_rlvr.data.synthetic.emotions import CUES, LABELS, oracle_label
from omni_rlvr.record import SCORES, read_jsonl, write_json
from omni_rlvr.tasks.report import plots
from omni_rlvr.tasks.report.baseline import resolution
from omni_rlvr.tasks.report.drawing import model_colours, spared
from omni_rlvr.tasks.report.gain import differences, gain_parts, paired_rows
from omni_rlvr.tasks.report.text_tables import summary_markdown
from omni_rlvr.types import Example

Scores = Mapping[str, Mapping]
Answers = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""Model -> split -> rows of predictions.jsonl."""
SHOWN = (*SCORES, "war_ci", "chosen_war_ci", "chosen_after_prompt", "outcomes")


def oracle_scores(examples: Mapping[str, Sequence[Example]]) -> dict[str, dict[str, float]]:
    """Score the oracle that is given the true cue values, on every split that has cues.

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
    *,
    answers: Answers,
    gain: Sequence[str],
) -> dict:
    """Select the scores for the summary, in percent, and compare the models.

    Args:
        models: Model -> split -> scores.
        modality: Modality -> scores.
        oracle: From ``oracle_scores``.
        seconds: Step -> how long it took.
        answers: The rows behind ``models``.
        gain: Two models, or none; the gain of the second over the first is decomposed.
    """
    summary = {
        "models": {
            name: {split: {key: s[key] for key in SHOWN if key in s} for split, s in splits.items()}
            for name, splits in models.items()
        },
        "modality": {name: {"war": scores["war"]} for name, scores in modality.items()},
        "oracle": dict(oracle),
        "seconds": dict(seconds),
        "resolution": resolutions(answers),
        "unshared": unshared(answers),
    }
    if gain:
        first, second = gain
        splits = [
            split
            for split, rows in answers[second].items()
            if paired_rows(answers[first].get(split, []), rows)[0]
        ]
        parts = {s: gain_parts(answers[first][s], answers[second][s]) for s in splits}
        summary["gain"] = {"from": first, "to": second, "parts": parts}
        summary["differences"] = {
            name: {
                s: differences(rows[s], answers[second][s])
                for s in splits
                if paired_rows(rows.get(s, []), answers[second][s])[0]
            }
            for name, rows in answers.items()
            if name != second
        }
    return summary


def resolutions(answers: Answers) -> dict[str, dict[str, float]]:
    """Find for each split the difference of two models that is more than chance."""
    out = {}
    for split in dict.fromkeys(split for splits in answers.values() for split in splits):
        right = {
            name: {0: {row["id"]: row["correct"] for row in splits[split]}}
            for name, splits in answers.items()
            if split in splits
        }
        if found := resolution(right):
            out[split] = asdict(found)
    return out


def unshared(answers: Answers) -> dict[str, int]:
    """Count for each split the clips that not all models have an answer to, if there are any."""
    out = {}
    for split in dict.fromkeys(split for splits in answers.values() for split in splits):
        ids = [{r["id"] for r in splits[split]} for splits in answers.values() if split in splits]
        if odd := set.union(*ids) - set.intersection(*ids):
            out[split] = len(odd)
    return out


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
    for split, parts in summary.get("gain", {}).get("parts", {}).items():
        if "recognition" in parts:
            pictures.append(folder / f"gain_{split}.png")
            with spared(pictures[-1]):
                plots.gain_waterfall(summary, split, pictures[-1])
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
