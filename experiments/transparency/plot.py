"""Makes of results.csv the table, the findings and results.png:
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
        "After training, on the 500 test clips: percent unless nats are named, mean (each seed).",
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
        rows.append([title, *(cell(values.loc[stage], digits) for stage in STAGES)])
    return table(["measure", *STAGES.values()], rows)


def findings(frame: pd.DataFrame) -> list[str]:
    """What differs between the models, in words, with the numbers that say so."""
    out = []
    for other in ("cold_start", "sft_labels"):
        for name in ROWS:
            values = at_end(frame, name)
            if name == "agreement_chance" or not {"rlvr", other} <= set(values.index):
                continue
            unit = "nats" if "nats" in ROWS[name][0] else "points"
            gap = difference(values, "rlvr", other)
            if gap.seeds:
                head = f"RLVR minus {STAGES[other]}, {ROWS[name][0].removesuffix(' (nats)')}"
                out.append(f"{sentence(head, gap, unit, ROWS[name][2])}.")
    for stage, title in STAGES.items():
        values = {name: at_end(frame, name) for name in ("agreement", "agreement_chance")}
        if all(stage in rows.index for rows in values.values()):
            ahead = pd.concat({name: rows.loc[stage] for name, rows in values.items()}, axis=1).T
            gap = difference(ahead, "agreement", "agreement_chance")
            out.append(f"{sentence(f'{title}, agreement minus chance', gap, 'points')}.")
    return out


def picture(frame: pd.DataFrame) -> None:
    figure = Figure(figsize=(10.5, 8.4), layout="constrained")
    grid = figure.subplots(len(PANELS), len(STAGES), sharey="row")
    for line, (label, metrics) in zip(grid, PANELS.items(), strict=True):
        of = draw.looks(metrics, ("-", "--", "-.", ":"))
        for axes, (stage, title) in zip(line, STAGES.items(), strict=True):
            own = frame[(frame.stage == stage) & frame.metric.isin(metrics)]
            factor = 100 if "%" in label else 1
            own = own.assign(value=factor * own.value, of=own.metric, metric="probe")
            first = axes is line[0]
            draw.curves(axes, own, "of", of, "probe", label if first else "")
            axes.set_xlabel("updates")
            if line is grid[0]:
                axes.set_title(title, fontsize=10)
            if own.empty:
                axes.text(0.5, 0.5, "does not reason", ha="center", transform=axes.transAxes)
        draw.key(line[-1], of)
    draw.save(figure, HERE / "results.png")


if __name__ == "__main__":
    main()
