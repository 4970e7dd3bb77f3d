"""Make the table, the findings and results.png from results.csv:
python -m experiments.modality_ablation.plot
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import figure as draw
from experiments.paired import (
    Difference,
    bullets,
    cell,
    difference,
    final,
    gap_cell,
    sentence,
    table,
    write_results,
)

HERE = Path(__file__).parent
BASE = "video_audio"
NAMES = {"video": "video", "audio": "audio", "video_audio": "video + audio"}
ALIKE = {
    "video": (("fear", "surprise"), ("angry", "disgust"), ("sad", "neutral")),
    "audio": (("happy", "surprise"), ("angry", "fear"), ("sad", "disgust")),
}
"""Pairs that look alike and sound different, and the reverse: see data/synthetic/emotions.py."""
CURVES = {
    "rewards/accuracy/mean": "accuracy reward",
    "frac_reward_zero_std": "share of groups\nwithout spread",
    "kl": "KL to the cold start\n(nats per token)",
}


def main() -> None:
    frame = pd.read_csv(HERE / "results.csv")
    write_results(
        HERE / "README.md",
        "Percent, mean (each seed); differences in points within a seed, mean [95 % over seeds], "
        "bold where that leaves 0 out.",
        results(frame),
        "Recall on test, percent, mean (each seed):",
        recalls(frame),
        "![WAR, recall of each emotion and training curves by modality](results.png)",
        bullets(findings(frame)),
    )
    picture(frame)


def results(frame: pd.DataFrame) -> str:
    war = {split: final(frame, f"{split}/war", "modality") for split in ("test", "ood")}
    uar, form = (final(frame, f"test/{name}", "modality") for name in ("uar", "format"))
    rows = []
    for name in there(frame):
        row = [NAMES[name]]
        for values in war.values():
            lone = name == BASE or BASE not in values.index
            row += [cell(values.loc[name])]
            row += ["" if lone else gap_cell(difference(values, name, BASE))]
        rows.append([*row, f"{uar.loc[name].mean():.1f}", f"{form.loc[name].mean():.1f}"])
    header = ["trained and tested on", "test WAR", "minus both", "OOD WAR", "minus both"]
    return table([*header, "test UAR", "test format"], rows)


def there(frame: pd.DataFrame) -> list[str]:
    return [name for name in NAMES if name in set(frame.modality)]


def labels(frame: pd.DataFrame) -> list[str]:
    found = frame.metric[frame.metric.str.startswith("test/recall/")]
    return [name.removeprefix("test/recall/") for name in dict.fromkeys(found)]


def recall(frame: pd.DataFrame, label: str) -> pd.DataFrame:
    return final(frame, f"test/recall/{label}", "modality")


def recalls(frame: pd.DataFrame) -> str:
    rows = [
        [label, *(cell(recall(frame, label).loc[name], 0) for name in there(frame))]
        for label in labels(frame)
    ]
    return table(["emotion", *(NAMES[name] for name in there(frame))], rows)


def findings(frame: pd.DataFrame) -> list[str]:
    """What differs, in words, with the numbers that say so."""
    out = [pairs(frame, name, by) for name in there(frame) for by in ALIKE if by in name]
    alone = [name for name in there(frame) if name != BASE]
    if BASE not in there(frame):
        return out
    for split in ("test", "ood"):
        values = final(frame, f"{split}/war", "modality")
        said = [
            sentence(f"{name} alone", difference(values, name, BASE), "points") for name in alone
        ]
        out.append(f"WAR on {split} against both: {'; '.join(said)}.")
        if len(alone) == 2:
            gap = difference(values, "audio", "video")
            out.append(f"{sentence(f'Audio minus video, {split}', gap, 'points')}.")
    for name in alone:
        gaps = {label: difference(recall(frame, label), name, BASE) for label in labels(frame)}
        out.append(f"{NAMES[name].capitalize()} alone loses most on {_most(gaps)}.")
        kept = [label for label, gap in gaps.items() if not gap.is_clear]
        text = ", ".join(f"{label} ({gaps[label].mean:+.1f})" for label in kept) or "none"
        out.append(
            f"{NAMES[name].capitalize()} alone is within the seeds' spread of both on: {text}."
        )
    return out


def pairs(frame: pd.DataFrame, name: str, by: str) -> str:
    """Recalls of pairs that are alike, seed by seed: is one of the two always answered?"""
    said = []
    for pair in ALIKE[by]:
        one, other = (recall(frame, label).loc[name].dropna() for label in pair)
        seeds = ", ".join(f"{a:.0f}/{b:.0f}" for a, b in zip(one, other, strict=True))
        both = ((one + other) / 2).mean()
        said.append(f"{'/'.join(pair)} {seeds} (mean of the two {both:.0f})")
    verb = {"video": "look", "audio": "sound"}[by]
    return f"{NAMES[name].capitalize()}, recall of pairs that {verb} alike: {'; '.join(said)}."


def _most(gaps: dict[str, Difference]) -> str:
    worst = sorted(gaps, key=lambda label: gaps[label].mean)[:3]
    return "; ".join(sentence(label, gaps[label], "points of recall") for label in worst)


def picture(frame: pd.DataFrame) -> None:
    of = draw.looks({name: NAMES[name] for name in there(frame)}, ("-", "--", ":"))
    figure = Figure(figsize=(10.5, 8.6), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(1, 1.7, 1.4))
    for axes, split in zip(top.subplots(1, 2), ("test", "ood"), strict=True):
        draw.dots(axes, final(frame, f"{split}/war", "modality"), of, f"WAR on {split} (%)")
    recall_dots(middle.subplots(), frame, of)
    for axes, (metric, label) in zip(bottom.subplots(1, 3), CURVES.items(), strict=True):
        draw.curves(axes, frame, "modality", of, metric, label)
    draw.legend(figure, of, 3)
    draw.save(figure, HERE / "results.png")


def recall_dots(axes: Axes, frame: pd.DataFrame, of: draw.Looks) -> None:
    """A group a label, a column a modality: a dot a seed, a bar at the mean."""
    names = labels(frame)
    for place, label in enumerate(names):
        values = recall(frame, label)
        for k, (name, look) in enumerate(of.items()):
            seeds, x = values.loc[name].dropna(), place + 0.22 * (k - 1)
            axes.plot([x] * len(seeds), seeds, "o", color=look.colour, alpha=0.7, markersize=5)
            axes.plot(x, seeds.mean(), "_", color=draw.INK, markersize=13, markeredgewidth=2)
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="recall on test (%)", ylim=(-3, 103))
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
