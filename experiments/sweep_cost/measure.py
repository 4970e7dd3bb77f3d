"""Measure what a sweep adds to its runs: 12 two-step GRPO runs on the tiny model, in one process.

A run's own time is that in sweep.jsonl: from the search for a finished run to its scores. What the
sweep adds is the rest of the process, divided by the number of runs: start, composing, folders, the
table. Running the same command again shows what a skipped run costs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from omni_rlvr.record import read_jsonl

CODE = "import sys; from omni_rlvr.cli import main; sys.argv[0] = 'omni-rlvr'; main()"
OVERRIDES = (
    "+experiment=ablation",
    "name=cost",
    "task.start_from.overrides=[]",
    "dataset.train_split=cold_start",
    "dataset.splits.cold_start.num_clips=24",
    "dataset.splits.test.num_clips=14",
    "dataset.num_workers=0",
    "task.evaluate_after.splits=[test]",
    "task.evaluate_after.max_completion_length=16",
    "stage.max_steps=2",
    "stage.batch_size=4",
    "stage.num_generations=4",
    "stage.sampling.max_completion_length=16",
    "~callbacks.progress",
    "reward.weights.format=0,0.5,1,2",
    "seed=0,1,2",
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = (f"paths.output_root={folder}/out", f"paths.data_root={folder}/data")
        command = [sys.executable, "-c", CODE, "-m", *OVERRIDES, *paths]
        for what in ("12 runs", "12 runs that are there"):
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            wall = time.perf_counter() - started
            jobs = read_jsonl(Path(folder) / "out" / "cost" / "sweep" / "sweep.jsonl")
            own = sum(job["seconds"] for job in jobs)
            print(
                f"{what}: {wall:.1f} s, of which in the runs {own:.1f} s; "
                f"the sweep adds {(wall - own) / len(jobs):.2f} s a run"
            )


if __name__ == "__main__":
    main()
