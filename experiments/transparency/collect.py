"""Write the results of the probes and of task=attribute to results.csv:
python -m experiments.transparency.collect OUT/transparency

A row has stage, seed, metric, a number of updates and a value. ``modality/*`` is from the probe
after this number of updates (it runs before a step changes the policy); ``attribute/*`` is from
task=attribute on the test clips after training, and has no number of updates.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from omni_rlvr.record import finished_config, read_json, read_jsonl

HERE = Path(__file__).parent
STAGES = ("cold_start", "sft_labels", "rlvr")
SUBSETS = ("none", "audio", "video", "both")
OF_ALL = (
    *(f"accuracy_{name}" for name in SUBSETS),
    *("phi_audio", "phi_video", "interaction", "share_audio", "share_video"),
)
OF_REASONING = ("agreement", "hallucination", "hallucination_visual", "hallucination_vocal", "lean")


def main(home: Path) -> None:
    rows = [
        (stage, int(folder.name.removeprefix("seed")), *row)
        for folder in sorted(home.glob("seed*"))
        for stage in STAGES
        for row in (*probes(folder / stage), *attribution(folder / f"attribute_{stage}"))
    ]
    frame = pd.DataFrame(rows, columns=["stage", "seed", "metric", "step", "value"])
    frame = frame.astype({"step": "Int64"})
    frame.to_csv(HERE / "results.csv", index=False, float_format="%.6g", lineterminator="\n")
    print(f"{HERE / 'results.csv'}: {len(frame)} rows, seeds {sorted(set(frame.seed))}")


def probes(run: Path) -> Iterator[tuple[str, int, float]]:
    """Yields what the probe saw: (metric, updates before it, value)."""
    if finished_config(run) is None:
        print(f"left out, not finished: {run}", file=sys.stderr)
        return
    for row in read_jsonl(run / "metrics.jsonl"):
        for name, value in row.items():
            if name.startswith("modality/") and name != "modality/probe_s" and value is not None:
                yield name, row["step"] - 1, value


def attribution(run: Path) -> Iterator[tuple[str, None, float]]:
    """Yields what task=attribute found on test."""
    if finished_config(run) is None:
        print(f"left out, not finished: {run}", file=sys.stderr)
        return
    report = read_json(run / "test" / "attribution.json")
    found = {name: report["all"][name] for name in OF_ALL}
    found |= {f"follows_{name}": report["swap"][name] for name in ("audio", "video", "neither")}
    said = report["faithfulness"]
    found |= {name: said[name] for name in OF_REASONING}
    for name, entry in found.items():
        if entry is not None:
            yield f"attribute/{name}", None, entry["mean"]
    if said["agreement_chance"] is not None:
        yield "attribute/agreement_chance", None, said["agreement_chance"]
    yield "attribute/same_answer", None, said["same_answer"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
