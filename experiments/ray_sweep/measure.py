"""Measure how much sooner a sweep of eight runs is done on two Ray workers than on one.

    python experiments/ray_sweep/measure.py [--steps N] [--runs N] [--folder DIR]

The same cold starts, seeds 0 to 7, run with ``hydra/launcher=ray`` on a Ray instance of one core
and on one of two; a job is one process with one thread in both. The time is from the start of the
first job, so without the start of Ray, to the end of the last. The clips are made before. Writes
results.csv. A sweep that was already measured in DIR is not run again.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from omni_rlvr.record import read_jsonl
from omni_rlvr.tasks.sweep_summary import STARTED

HERE = Path(__file__).parent
CODE = "import sys; from omni_rlvr.cli import main; sys.argv[0] = 'omni-rlvr'; main()"
WORKERS = (1, 2)
MIN_RUN_S, WANTED = 60, 1.6


def sweep(folder: Path, name: str, seeds: str, steps: int, *more: str) -> Path:
    """Run one sweep and return its folder."""
    command = [
        sys.executable, "-c", CODE, "-m", "+experiment=cold_start", f"name={name}", f"seed={seeds}",
        f"paths.output_root={folder}/out", f"paths.data_root={folder}/data",
        f"stage.max_steps={steps}", "dataset.num_workers=0", "task.evaluate_after.splits=[]",
        "~callbacks.progress", *more,
    ]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder / "out" / name / "sweep"


def measure(folder: Path, workers: int, num_runs: int, steps: int) -> list[dict[str, object]]:
    """Time a sweep; returns a row for each run, and one for the whole."""
    seeds = ",".join(map(str, range(num_runs)))
    ray = ("hydra/launcher=ray", f"hydra.launcher.ray.init.num_cpus={workers}")
    home = folder / "out" / f"workers_{workers}" / "sweep"
    if not (home / "sweep.csv").exists():  # written when the whole sweep is done
        sweep(folder, f"workers_{workers}", seeds, steps, *ray)
    began = min(path.stat().st_mtime for path in (home / STARTED).iterdir())
    jobs = read_jsonl(home / "sweep.jsonl")
    assert [job["status"] for job in jobs] == ["finished"] * num_runs
    ended = max((home / job["run"] / "run.json").stat().st_mtime for job in jobs)
    rows = [{"workers": workers, "run": job["job"], "seconds": job["seconds"]} for job in jobs]
    whole = {"workers": workers, "run": "all", "seconds": round(ended - began, 2)}
    return [*sorted(rows, key=lambda row: row["run"]), whole]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="ray_sweep_"))
    sweep(folder, "clips", "0", 1)
    rows = []
    for workers in WORKERS:
        print(f"{workers} at a time, {time.ctime()}, load {os.getloadavg()[0]:.1f}", flush=True)
        rows += measure(folder, workers, asked.runs, asked.steps)
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["workers", "run", "seconds"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    one, two = (row["seconds"] for row in rows if row["run"] == "all")
    shortest = min(row["seconds"] for row in rows if row["run"] != "all")
    print(f"one worker {one:.0f} s, two {two:.0f} s: {one / two:.2f}x (wanted: {WANTED}x)")
    print(f"shortest run {shortest:.0f} s (wanted: at least {MIN_RUN_S}; else raise --steps)")


if __name__ == "__main__":
    main()
