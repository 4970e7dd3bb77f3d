"""Make the table, the findings and results.png from results.csv:
python -m experiments.objectives.plot
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiments import figure as draw
from experiments.paired import (
    bullets,
    cell,
    difference,
    final,
    gap_cell,
    summary,
    table,
    write_results,
)

HERE = Path(__file__).parent
FAMILIES = {
    "means of sequences": ("grpo", "gspo", "sapo"),
    "means of tokens": ("bnpo", "dapo", "cispo"),
    "constant": ("dr_grpo",),
}
"""Loss types that have the same gradient at ratio 1; the last is a multiple of the second."""
LINES = {"means of sequences": "-", "means of tokens": "--", "constant": ":"}
LOSSES = [name for members in FAMILIES.values() for name in members]
CURVES = {
    "rewards/accuracy/mean": "accuracy reward",
    "kl": "KL to the cold start\n(nats per token)",
    "entropy": "entropy (nats per token)",
    "completions/mean_length": "completion (tokens)",
    "frac_reward_zero_std": "share of groups\nwithout spread",
    "clip_ratio/region_mean": "share of tokens clipped\n(gspo: of sequences)",
}
BASE = "grpo"


def main() -> None:
    frame = pd.read_csv(HERE / "results.csv")
    arms = sorted(frame.num_minibatches.unique())
    rows, found = [], []
    for arm in arms:
        part = frame[frame.num_minibatches == arm]
        rows += table_rows(part, arm)
        found += findings(part, arm)
    header = ["updates a rollout", "loss type", "test WAR", "minus grpo", "OOD WAR", "minus grpo"]
    header += ["accuracy reward", "KL", "entropy", "tokens"]
    write_results(
        HERE / "README.md",
        "WAR in percent, mean (each seed); differences in points within a seed, mean [95 % over "
        "seeds], bold where that leaves 0 out. The last four are means over the last tenth of "
        "training and over seeds.",
        table(header, rows),
        "![WAR by loss type, and training curves](results.png)",
        bullets(found),
    )
    picture(frame, arms)


def table_rows(part: pd.DataFrame, arm: int) -> list[list[str]]:
    test, ood = (final(part, f"{split}/war", "loss_type") for split in ("test", "ood"))
    ends = ("rewards/accuracy/mean", "kl", "entropy", "completions/mean_length")
    tails = [final(part, name, "loss_type").mean(axis=1) for name in ends]
    out = []
    for name in LOSSES:
        if name in test.index:
            row = [str(arm), name]
            for scores in (test, ood):
                gap = "" if name == BASE else gap_cell(difference(scores, name, BASE))
                row += [cell(scores.loc[name]), gap]
            digits = (3, 4, 3, 1)
            row += [f"{t.loc[name]:.{d}f}" for t, d in zip(tails, digits, strict=True)]
            out.append(row)
    return out


def findings(part: pd.DataFrame, arm: int) -> list[str]:
    """What differs, in words, with the numbers that say so."""
    head = updates(arm).capitalize()
    names = {name: name for name in LOSSES}
    out = [noise(part, head)] if arm == 1 else []
    for metric, what, unit, digits in (
        ("test/war", "WAR on test", "points", 1),
        ("ood/war", "WAR on OOD", "points", 1),
        ("rewards/accuracy/mean", "accuracy reward", "", 3),
        ("kl", "KL", "nats per token", 4),
        ("entropy", "entropy", "nats per token", 3),
        ("completions/mean_length", "length", "tokens", 2),
        ("frac_reward_zero_std", "share of groups without spread", "", 3),
    ):
        values = final(part, metric, "loss_type")
        out.append(f"{head}, {what} against grpo: {summary(values, names, unit, digits)}.")
    for metric, of in (("clip_ratio/region_mean", "tokens"), ("cispo_clip_ratio", "weights")):
        clipped = part[part.metric == metric].groupby("loss_type").value.mean()
        if len(clipped):
            shares = ", ".join(f"{name} {100 * v:.2f} %" for name, v in clipped.items())
            out.append(f"{head}, {of} clipped, mean of the run: {shares}.")
    return out


def noise(part: pd.DataFrame, head: str) -> str:
    """How far runs of the same seed and the same gradient end from each other."""
    texts = []
    for split in ("test", "ood"):
        scores = final(part, f"{split}/war", "loss_type")
        gaps = [
            (scores.loc[a] - scores.loc[b]).abs()
            for members in FAMILIES.values()
            for a, b in combinations([m for m in members if m in scores.index], 2)
        ]
        every = pd.concat(gaps).dropna()
        texts.append(f"{every.mean():.1f} points of WAR on {split} (at most {every.max():.1f})")
    return (
        f"{head}: grpo, gspo and sapo have the same gradient; runs of theirs with one seed "
        f"end {' and '.join(texts)} apart: rounding, and the tokens drawn after it. A difference "
        "of that size is no difference."
    )


def picture(frame: pd.DataFrame, arms: list[int]) -> None:
    """Scores of every arm; curves of the one with the most updates a rollout."""
    styles = [LINES[family] for family, members in FAMILIES.items() for _ in members]
    of = draw.looks({name: name for name in LOSSES}, styles)
    shares = [len(set(frame.loss_type[frame.num_minibatches == arm])) for arm in arms]
    heights = [0.7 + 0.25 * share for share in shares]
    figure = Figure(figsize=(9, sum(heights) + 7.4), layout="constrained")
    parts = figure.subfigures(len(arms) + 1, 1, height_ratios=[*heights, 7])
    for part, arm in zip(parts, arms, strict=False):
        own = frame[frame.num_minibatches == arm]
        there = {name: look for name, look in of.items() if name in set(own.loss_type)}
        for axes, split in zip(part.subplots(1, 2), ("test", "ood"), strict=True):
            scores = final(own, f"{split}/war", "loss_type")
            draw.dots(axes, scores, there, f"WAR on {split} (%), {updates(arm)}")
    own = frame[frame.num_minibatches == arms[-1]]
    grid = parts[-1].subplots(3, 2).flatten()
    for axes, (metric, label) in zip(grid, CURVES.items(), strict=True):
        draw.curves(axes, own, "loss_type", of, metric, label)
    parts[-1].suptitle(f"Training, {updates(arms[-1])}", fontsize=10)
    draw.legend(figure, of, 4)
    draw.save(figure, HERE / "results.png")


def updates(arm: int) -> str:
    return "one update a rollout" if arm == 1 else f"{arm} updates a rollout"


if __name__ == "__main__":
    main()
