"""Make the quickstart's table of several seeds, its figures and the texts in both READMEs.

    python -m experiments.quickstart.collect [outputs/quickstart]

With a folder, the answers of its runs (seed0, ...) are first written to clips.parquet, with a row
for each seed, model, split and clip. All numbers are computed from clips.parquet and the summaries
of the runs. An interval is the mean over seeds -+ the half width over clips and seeds of
``functional.bootstrap.resolvable_difference``, at 95 %.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from experiments.paired import table
from omni_rlvr.functional.bootstrap import resolvable_difference
from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.tasks.report import plots
from omni_rlvr.tasks.report.baseline import resolution
from omni_rlvr.tasks.report.gain import gain_parts
from omni_rlvr.tasks.report.text_tables import (
    PARTS,
    display_name,
    resolution_text,
    split_name,
    vocabulary_text,
)

HERE = Path(__file__).parent
READMES = (HERE / "README.md", HERE.parents[1] / "README.md")
BEGIN, END = "<!-- quickstart:begin -->", "<!-- quickstart:end -->"
FIRST, SECOND = "cold_start", "rlvr"
MEASURES: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "WAR": lambda rows: rows.correct,
    "WAR, chosen from the list": lambda rows: rows.chosen == rows.label,
}


def main() -> None:
    if len(sys.argv) > 1:
        gather(Path(sys.argv[1]))
    clips = pd.read_parquet(HERE / "clips.parquet")
    summaries = {
        int(path.stem.removeprefix("summary_seed")): read_json(path)
        for path in sorted(HERE.glob("summary_seed*.json"))
    }
    if sorted(summaries) != sorted(clips.seed.unique()):
        sys.exit(
            f"{HERE}: clips.parquet and summary_seed*.json are of other seeds: run.sh makes both"
        )
    results(clips, summaries).to_csv(HERE / "results.csv", index=False, lineterminator="\n")
    text = "\n\n".join(told(clips, summaries))
    for readme in READMES:
        before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
        after = rest.split(END)[1]
        readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    for split in clips.split.unique():
        plots.gain_waterfall(mean_summary(clips, split), split, HERE / f"gain_{split}.png")
    print(text)


def gather(runs: Path) -> None:
    """Puts the answers of all models into clips.parquet, and copies the summaries."""
    frames = []
    for folder in sorted(runs.glob("seed*")):
        seed = int(folder.name.removeprefix("seed"))
        shutil.copy(folder / "summary.json", HERE / f"summary_seed{seed}.json")
        for file in sorted(folder.glob("evaluate/*/*/predictions.jsonl")):
            model, split = file.parts[-3], file.parts[-2]
            if not model.startswith("modality_"):
                frame = pd.DataFrame(read_jsonl(file)).drop(columns="completion")
                frame.insert(0, "seed", seed)
                frame.insert(1, "model", model)
                frame.insert(2, "split", split)
                frames.append(frame)
    pd.concat(frames, ignore_index=True).to_parquet(HERE / "clips.parquet", index=False)


def results(clips: pd.DataFrame, summaries: dict[int, dict]) -> pd.DataFrame:
    """Lays out every score: a row a seed, model and split, oracle and modalities among them."""
    rows = []
    for seed, summary in summaries.items():
        for model, splits in summary["models"].items():
            for split, s in splits.items():
                row = {"seed": seed, "kind": "model", "model": model, "split": split}
                row |= {
                    key: s[key] for key in ("war", "uar", "weighted_f1", "chosen_war", "format")
                }
                for name in ("war", "chosen_war"):
                    row[f"{name}_low"], row[f"{name}_high"] = s[f"{name}_ci"]
                rows.append(row | s["outcomes"])
        for split, s in summary["oracle"].items():
            rows.append({"seed": seed, "kind": "oracle", "model": "oracle", "split": split, **s})
        for name, s in summary["modality"].items():
            rows.append({"seed": seed, "kind": "modality", "model": name, "split": "test", **s})
    counts = ("num_clips", "right", "unparseable", "outside", "another_label", "won", "wrong")
    return pd.DataFrame(rows).astype({name: "Int64" for name in counts if name in rows[0]})


def values(clips: pd.DataFrame, model: str, split: str, measure: str) -> torch.Tensor:
    """Reads a measure of a model clip by clip: [K, N] for K seeds and N clips."""
    rows = clips[(clips.model == model) & (clips.split == split)]
    wide = rows.assign(value=MEASURES[measure](rows).astype(float)).pivot(
        index="seed", columns="id", values="value"
    )
    assert not wide.isna().any().any(), f"{model} on {split}: seeds were tested on other clips"
    return torch.tensor(wide.to_numpy())


def interval(numbers: torch.Tensor, form: str = ".1f") -> str:
    """Writes the mean of [K, N] numbers, in percent, with its interval over clips and seeds."""
    mean, half = 100 * numbers.mean().item(), 100 * resolvable_difference(numbers, confidence=0.95)
    return f"{mean:{form}} [{mean - half:{form}}, {mean + half:{form}}]"


def told(clips: pd.DataFrame, summaries: dict[int, dict]) -> list[str]:
    """Says what the study found, in tables and sentences."""
    models, splits = list(dict.fromkeys(clips.model)), list(dict.fromkeys(clips.split))
    order = list(next(iter(summaries.values()))["models"])
    models.sort(key=order.index)
    splits.sort(key=lambda split: split != "test")
    seeds = ", ".join(map(str, summaries))
    lines = []
    for model in models:
        cells = [interval(values(clips, model, s, m)) for s in splits for m in MEASURES]
        form = [100 * clips[(clips.model == model) & (clips.split == "test")].well_formed.mean()]
        name = f"**{display_name(model)}**" if model == SECOND else display_name(model)
        lines.append([name, *cells, *(f"{value:.1f}" for value in form)])
    oracle = [f"{mean_of(summaries, 'oracle', split):.1f}" for split in splits]
    lines.append(["oracle (true cues)", *(cell for war in oracle for cell in (war, "")), ""])
    head = [f"{split_name(s)} {m}" for s in splits for m in MEASURES]
    parts = [
        f"In percent, mean over seeds {seeds} with 95 % interval over clips and seeds, from "
        "`experiments/quickstart/results.csv`. *WAR* is the accuracy of the generated answers; "
        "*chosen from the list* that of the most likely label behind the model's own reasoning:",
        table(["model", *head, "test format"], lines),
        *(gain_told(clips, split) for split in splits),
        " ".join(limit(clips, split) for split in splits),
    ]
    rows = [
        [
            display_name(name),
            *(f"{summary['modality'][name]['war']:.1f}" for summary in summaries.values()),
        ]
        for name in next(iter(summaries.values()))["modality"]
    ]
    return [*parts, table(["RLVR model, test WAR", *(f"seed {seed}" for seed in summaries)], rows)]


def mean_of(summaries: dict[int, dict], group: str, name: str) -> float:
    """Averages a WAR over seeds."""
    return sum(summary[group][name]["war"] for summary in summaries.values()) / len(summaries)


def mean_parts(clips: pd.DataFrame, split: str) -> dict[str, float]:
    """Averages the parts of the gain over seeds, in points."""
    found = []
    for _, rows in clips[clips.split == split].groupby("seed"):
        answers = [rows[rows.model == name].to_dict("records") for name in (FIRST, SECOND)]
        found.append(gain_parts(*answers))
    num_clips = sum(parts["num_clips"] for parts in found)
    return {name: 100 * sum(parts[name] for parts in found) / num_clips for name in PARTS}


def mean_summary(clips: pd.DataFrame, split: str) -> dict:
    """Makes what ``plots.gain_waterfall`` draws, of the means over seeds."""
    models = {
        name: {split: {"war": 100 * values(clips, name, split, "WAR").mean().item()}}
        for name in (FIRST, SECOND)
    }
    parts = {split: {**mean_parts(clips, split), "num_clips": 100}}
    return {"models": models, "gain": {"from": FIRST, "to": SECOND, "parts": parts}}


def gain_told(clips: pd.DataFrame, split: str) -> str:
    """Says what RLVR adds to the cold start, and what it has over label-only SFT."""
    first, second = (
        [values(clips, name, split, measure) for measure in MEASURES] for name in (FIRST, SECOND)
    )
    war, chosen = (interval(b - a, "+.1f") for a, b in zip(first, second, strict=True))
    parts = mean_parts(clips, split)
    over = interval(
        values(clips, SECOND, split, "WAR") - values(clips, "sft_labels", split, "WAR"), "+.1f"
    )
    return (
        f"On {split_name(split)}, RLVR changes the cold start's WAR by {war} points, and its WAR "
        f"chosen from the list by {chosen}: the latter is recognition, the other "
        f"{vocabulary_text(parts)}. Against SFT on the same 3,000 labels it is {over}."
    )


def limit(clips: pd.DataFrame, split: str) -> str:
    """Says which differences of the table may be chance."""
    rows: dict[str, dict[int, dict[str, bool]]] = {}
    for (model, seed), own in clips[clips.split == split].groupby(["model", "seed"]):
        rows.setdefault(model, {})[seed] = dict(zip(own.id, own.correct, strict=True))
    found = resolution(rows)
    assert found is not None
    return resolution_text(split, found)


if __name__ == "__main__":
    main()
