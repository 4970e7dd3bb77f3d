"""Make the table, the findings and results.png from results.csv:
python -m experiments.reward_weights.plot
"""

from __future__ import annotations

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
BASE = 1.0
"""R1-Omni's weight."""
CURVES = {
    "rewards/accuracy/mean": "accuracy reward (unweighted)",
    "rewards/format/mean": "format reward (unweighted)",
    "frac_reward_zero_std": "share of groups without spread",
    "completions/mean_length": "completion (tokens)",
    "kl": "KL to the cold start\n(nats per token)",
    "entropy": "entropy (nats per token)",
}


def main() -> None:
    frame = pd.read_csv(HERE / "results.csv")
    write_results(
        HERE / "README.md",
        "Percent, mean (each seed); differences in points within a seed, mean [95 % over seeds], "
        "bold where that leaves 0 out. Format in training: mean over completions sampled at "
        "temperature 1, in the first and the last tenth of the run; least: the lowest tenth of any "
        "seed.",
        results(frame),
        "![WAR by format weight, and training curves](results.png)",
        bullets(findings(frame)),
    )
    picture(frame)


def results(frame: pd.DataFrame) -> str:
    scores = {name: final(frame, name, "format") for name in ("test/war", "ood/war", "test/format")}
    rows = []
    for weight in weights(frame):
        row = [f"{weight:g}"]
        for name, values in scores.items():
            row.append(cell(values.loc[weight]))
            if name != "test/format":
                is_base = weight == BASE or BASE not in values.index
                row.append("" if is_base else gap_cell(difference(values, weight, BASE)))
        first, last, least = (f"{100 * value:.1f}" for value in format_in_training(frame, weight))
        rows.append([*row, first, last, least])
    header = ["format weight", "test WAR", "minus weight 1", "OOD WAR", "minus weight 1"]
    header += ["test format", "in training, first", "last", "least"]
    return table(header, rows)


def weights(frame: pd.DataFrame) -> list[float]:
    return sorted(frame.format.unique())


def format_in_training(frame: pd.DataFrame, weight: float) -> tuple[float, float, float]:
    """Share of sampled completions in the format: first tenth, last tenth, lowest."""
    own = frame[(frame.format == weight) & (frame.metric == "rewards/format/mean")]
    by_step = own.groupby("step").value.mean()
    return by_step.iloc[0], by_step.iloc[-1], own.value.min()


def findings(frame: pd.DataFrame) -> list[str]:
    """What differs, in words, with the numbers that say so."""
    names = {w: f"weight {w:g}" for w in sorted(weights(frame), key=lambda w: w != BASE)}
    out = []
    for metric, what, unit, digits in (
        ("test/war", "WAR on test", "points", 1),
        ("ood/war", "WAR on OOD", "points", 1),
        ("test/format", "Format on test", "points", 1),
        ("rewards/format/mean", "Format of sampled completions, last tenth", "", 4),
        ("rewards/accuracy/mean", "Accuracy reward, last tenth", "", 3),
        ("frac_reward_zero_std", "Share of groups without spread, last tenth", "", 3),
        ("completions/mean_length", "Length, last tenth", "tokens", 2),
        ("kl", "KL, last tenth", "nats per token", 4),
    ):
        values = final(frame, metric, "format")
        out.append(f"{what} against weight 1: {summary(values, names, unit, digits)}.")
    if 0.0 in weights(frame):
        first, last, least = (100 * share for share in format_in_training(frame, 0.0))
        greedy = final(frame, "test/format", "format").loc[0.0].dropna()
        out.append(
            f"Without any weight on it, {first:.1f} % of the sampled completions have the format "
            f"in the first tenth, {last:.1f} % in the last, {least:.1f} % in the lowest tenth of "
            f"any seed; greedy on test {greedy.mean():.1f} % ({greedy.min():.1f} at least)."
        )
    return out


def picture(frame: pd.DataFrame) -> None:
    of = draw.looks({w: f"format {w:g}" for w in weights(frame)}, ("-", "--", "-.", ":", "-"))
    figure = Figure(figsize=(10.5, 9.2), layout="constrained")
    grid = figure.subplots(3, 3)
    for axes, name in zip(grid[0], ("test/war", "ood/war", "test/format"), strict=True):
        split, score = name.split("/")
        label = f"{score.upper() if score == 'war' else score} on {split} (%)"
        draw.dots(axes, final(frame, name, "format"), of, label)
    for axes, (metric, label) in zip(grid[1:].flatten(), CURVES.items(), strict=True):
        draw.curves(axes, frame, "format", of, metric, label)
    draw.legend(figure, of, 5)
    draw.save(figure, HERE / "results.png")


if __name__ == "__main__":
    main()
