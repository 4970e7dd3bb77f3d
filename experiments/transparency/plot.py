"""Make the table, the findings and results.png from results.csv:
python -m experiments.transparency.plot
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
    sentence,
    table,
    write_results,
)

HERE = Path(__file__).parent
STAGES = {"cold_start": "cold start", "sft_labels": "SFT on labels", "rlvr": "RLVR"}
ROWS = {
    "accuracy_none": ("accuracy, neither", 100, 1),
    "accuracy_audio": ("accuracy, audio", 100, 1),
    "accuracy_video": ("accuracy, video", 100, 1),
    "accuracy_both": ("accuracy, both", 100, 1),
    "phi_audio": ("phi of audio (nats)", 1, 2),
    "phi_video": ("phi of video (nats)", 1, 2),
    "interaction": ("interaction (nats)", 1, 2),
    "follows_audio": ("swaps that follow audio", 100, 1),
    "follows_video": ("swaps that follow video", 100, 1),
    "agreement": ("agreement", 100, 1),
    "agreement_chance": ("agreement by chance", 100, 1),
    "hallucination": ("hallucination", 100, 1),
    "hallucination_visual": ("hallucination, seen", 100, 1),
    "hallucination_vocal": ("hallucination, heard", 100, 1),
    "same_answer": ("scored label is the answer", 100, 1),
}
"""What task=attribute measured: what it is called, its factor, and digits."""
WATCHED = (
    ("modality/phi_audio", "phi of audio (nats)", 2),
    ("modality/phi_video", "phi of video (nats)", 2),
    ("modality/interaction", "interaction (nats)", 2),
    ("modality/agreement", "agreement (fraction)", 2),
    ("modality/hallucination", "hallucination (fraction)", 2),
)
"""Metrics of the probe whose first and last values are told."""
PANELS = {
    "accuracy (%)": {
        "modality/acc_none": "neither",
        "modality/acc_audio": "audio",
        "modality/acc_video": "video",
        "modality/acc_both": "both",
    },
    "value (nats)": {
        "modality/phi_audio": "phi audio",
        "modality/phi_video": "phi video",
        "modality/interaction": "interaction",
    },
    "reasonings, claims (%)": {
        "modality/agreement": "agreement",
        "modality/hallucination": "hallucination",
    },
}
"""Panel -> metrics of the probe and their names."""


def main() -> None:
    frame = pd.read_csv(HERE / "results.csv")
    write_results(
        HERE / "README.md",
        "After training, on the 500 test clips: percent unless nats are named, mean (each seed); "
        "differences within a seed, mean [95 % over seeds], bold where that leaves 0 out.",
        results(frame),
        "![Accuracy, Shapley values and faithful reasoning through training](results.png)",
        bullets(findings(frame)),
    )
    picture(frame)


def at_end(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """What task=attribute measured, in the unit of the table: a row a stage, a column a seed."""
    return ROWS[name][1] * final(frame, f"attribute/{name}", "stage")


def results(frame: pd.DataFrame) -> str:
    rows = []
    for name, (title, _, digits) in ROWS.items():
        values = at_end(frame, name).reindex(STAGES)
        gaps = [difference(values, "rlvr", other) for other in ("cold_start", "sft_labels")]
        seeds = [cell(values.loc[stage], digits) for stage in STAGES]
        rows.append([title, *seeds, *(gap_cell(gap, digits) for gap in gaps)])
    header = ["measure", *STAGES.values(), "RLVR minus cold start", "RLVR minus SFT"]
    return table(header, rows)


def findings(frame: pd.DataFrame) -> list[str]:
    """What differs between the models, in words, with the numbers that say so."""
    out = []
    for stage, title in STAGES.items():
        said = [
            f"{title_of} {values[0]:.{digits}f} to {values[1]:.{digits}f}"
            for metric, title_of, digits in WATCHED
            if (values := through(frame, stage, metric)) is not None
        ]
        out.append(f"{title}, first to last probe, mean of seeds: {', '.join(said)}.")
    for stage, title in STAGES.items():
        values = {name: at_end(frame, name) for name in ("agreement", "agreement_chance")}
        if all(stage in rows.index for rows in values.values()):
            ahead = pd.concat({name: rows.loc[stage] for name, rows in values.items()}, axis=1).T
            gap = difference(ahead, "agreement", "agreement_chance")
            out.append(f"{sentence(f'{title}, agreement minus chance', gap, 'points')}.")
    for other in ("cold_start", "sft_labels"):
        clear = []
        for name, (title, _, digits) in ROWS.items():
            gap = difference(at_end(frame, name).reindex(STAGES), "rlvr", other)
            if gap.is_clear:
                what = title.removesuffix(" (nats)")
                unit = "nats" if what != title else "points"
                clear.append(sentence(what, gap, unit, digits))
        said = "; ".join(clear) or "nothing"
        out.append(f"RLVR minus {STAGES[other]}, clear of the seeds' spread: {said}.")
    return out


def through(frame: pd.DataFrame, stage: str, metric: str) -> tuple[float, float] | None:
    """The mean over seeds at the first and at the last probe."""
    rows = frame[(frame.stage == stage) & (frame.metric == metric)]
    by_step = rows.groupby("step").value.mean()
    return (by_step.iloc[0], by_step.iloc[-1]) if len(by_step) else None


def picture(frame: pd.DataFrame) -> None:
    figure = Figure(figsize=(10.5, 8.4), layout="constrained")
    grid = figure.subplots(len(PANELS), len(STAGES), sharey="row")
    for row, (label, metrics) in enumerate(PANELS.items()):
        of = draw.looks(metrics, ("-", "--", "-.", ":"))
        for axes, (stage, title) in zip(grid[row], STAGES.items(), strict=True):
            own = frame[(frame.stage == stage) & frame.metric.isin(metrics)]
            own = own.assign(
                value=own.value * (100 if "%" in label else 1), of=own.metric, metric="probe"
            )
            draw.curves(axes, own, "of", of, "probe", label if stage == "cold_start" else "")
            axes.set_xlabel("updates")
            axes.set_title(title if row == 0 else "", fontsize=10)
            if own.empty:
                axes.set_xticks([])
                axes.text(0.5, 0.5, "no reasoning", ha="center", transform=axes.transAxes)
        draw.key(grid[row][-1], of)
    draw.save(figure, HERE / "results.png")


if __name__ == "__main__":
    main()
