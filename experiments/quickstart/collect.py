"""Puts the summaries of several seeds into results.csv and prints the claims with their numbers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import mean

HERE = Path(__file__).parent
FIELDS = ("seed", "kind", "model", "split", "war", "uar", "format", "war_low", "war_high")


def main() -> None:
    summaries = {
        int(path.stem.removeprefix("summary_seed")): json.loads(path.read_text())
        for path in sorted(HERE.glob("summary_seed*.json"))
    }
    rows = [row for seed, summary in summaries.items() for row in rows_of(seed, summary)]
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for line in claims(rows, summaries):
        print(line)


def rows_of(seed: int, summary: dict) -> list[dict]:
    """One row a model and split, oracle and modalities among them; seconds stay in the JSON."""
    rows = []
    for model, splits in summary["models"].items():
        for split, s in splits.items():
            low, high = s["war_ci"]
            rows.append(
                {"seed": seed, "kind": "model", "model": model, "split": split, "war": s["war"]}
                | {"uar": s["uar"], "format": s["format"], "war_low": low, "war_high": high}
            )
    for split, s in summary["oracle"].items():
        rows.append(
            {"seed": seed, "kind": "oracle", "model": "oracle", "split": split, "war": s["war"]}
        )
    for name, s in summary["modality"].items():
        rows.append(
            {"seed": seed, "kind": "modality", "model": name, "split": "test", "war": s["war"]}
        )
    return rows


def claims(rows: list[dict], summaries: dict) -> list[str]:
    """What the study asks, with the numbers that answer it: a list per seed and the mean."""

    def war(model: str, split: str, key: str = "war") -> list[float]:
        return [r[key] for r in rows if r["model"] == model and r["split"] == split]

    def line(name: str, values: list[float]) -> str:
        return f"{name:48s} {'  '.join(f'{v:6.1f}' for v in values)}   mean {mean(values):6.1f}"

    gain = [a - b for a, b in zip(war("rlvr", "test"), war("cold_start", "test"), strict=True)]
    ood = [a - b for a, b in zip(war("rlvr", "ood"), war("cold_start", "ood"), strict=True)]
    better = [max(v, a) for v, a in zip(war("video", "test"), war("audio", "test"), strict=True)]
    both = [a - b for a, b in zip(war("video_audio", "test"), better, strict=True)]
    seconds = [sum(s["seconds"].values()) for s in summaries.values()]
    return [
        line("oracle WAR, test", war("oracle", "test")),
        line("cold start WAR, test", war("cold_start", "test")),
        line("cold start format rate, test", war("cold_start", "test", "format")),
        line("SFT on labels WAR, test", war("sft_labels", "test")),
        line("RLVR WAR, test", war("rlvr", "test")),
        line("RLVR - cold start, test", gain),
        line("RLVR - cold start, OOD", ood),
        line("SFT on labels WAR, OOD", war("sft_labels", "ood")),
        line("RLVR WAR, OOD", war("rlvr", "ood")),
        line("video alone", war("video", "test")),
        line("audio alone", war("audio", "test")),
        line("video + audio - better of the two", both),
        line("seconds", seconds),
    ]


if __name__ == "__main__":
    main()
