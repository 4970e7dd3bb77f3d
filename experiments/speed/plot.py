"""Collect the cells' JSON files in results.csv next to this file, and draw cost.png from it."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
CENTRE = {
    "prompt": 970,
    "completion": 64,
    "generations": 8,
    "hidden": 256,
    "layers": 6,
    "beta": 0.04,
}
AXES = {
    "prompt": "P, tokens of a prompt",
    "completion": "C, tokens of a completion",
    "generations": "G, completions a prompt",
    "weights": "weights of the model",
}
LINES = {
    "trl_s": "TRL, as it comes",
    "trl_plain_s": "TRL, no checkpointing",
    "naive_s": "naive",
    "ours_s": "this engine",
    "floor_s": "floor",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="folder of JSON files")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results.csv and cost.png")
    args = parser.parse_args()
    rows = gather(args.results)
    with (args.out / "results.csv").open("w", newline="") as file:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    cells = [row for row in rows if row["run"].startswith("grpo")]
    draw([row for row in cells if LINES.keys() <= row.keys()], args.out / "cost.png")


def gather(folder: Path) -> list[dict]:
    """Reads all cells, the file's name first; what follows from their numbers last."""
    rows = [
        {"run": path.stem, **json.loads(path.read_text())} for path in sorted(folder.glob("*.json"))
    ]
    return [{**row, **derived(row)} for row in rows]


def derived(row: dict) -> dict[str, float]:
    """Completion tokens a second of each contestant, and our step over the floor."""
    if "floor_s" not in row:
        return {}
    tokens = row["prompts"] * row["generations"] * row["completion"]
    names = [name for name in LINES if name in row and name != "floor_s"]
    rates = {f"{name.removesuffix('_s')}_tokens_per_s": tokens / row[name] for name in names}
    return {**rates, "ours_over_floor": row["ours_s"] / row["floor_s"]}


def sweep(rows: list[dict], axis: str) -> list[dict]:
    """The cells that differ from the centre in this axis alone."""
    varied = {"hidden", "layers"} if axis == "weights" else {axis}
    fixed = {name: value for name, value in CENTRE.items() if name not in varied}
    chosen = [row for row in rows if all(row[name] == value for name, value in fixed.items())]
    return sorted(chosen, key=lambda row: row[axis])


def draw(rows: list[dict], path: Path) -> None:
    """Draws seconds a step against each axis."""
    figure, panels = plt.subplots(1, 4, figsize=(16, 3.6), sharey=True, layout="constrained")
    for panel, (axis, label) in zip(panels, AXES.items(), strict=True):
        cells = sweep(rows, axis)
        for name, line in LINES.items():
            panel.plot(
                [cell[axis] for cell in cells],
                [cell[name] for cell in cells],
                marker="o",
                linestyle="--" if name == "floor_s" else "-",
                label=line,
            )
        panel.set(xscale="log", yscale="log", xlabel=label)
        values = [cell[axis] for cell in cells]
        names = [f"{v / 1e6:.1f} M" if axis == "weights" else str(v) for v in values]
        panel.set_xticks(values, names)
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds a step (median)")
    panels[0].yaxis.set_major_formatter("{x:g}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
