"""Check that a run that was killed and resumed equals the uninterrupted run bit for bit.

    python experiments/resume/measure.py [--kills N] [--steps N] [--folder DIR] [--runs NAME ...]

Both stages under both strategies on two processes. A kill is SIGKILL to the command and all its
ranks, at a random moment after a step that the run had not done before. Writes results.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from omni_rlvr.record import read_json, read_jsonl

HERE = Path(__file__).parent
CODE = "import sys; from omni_rlvr.cli import main; sys.argv[0] = 'omni-rlvr'; main()"
MARK = "OMNI_RLVR_KILLED_BY"
TIMES = {"tokens/s", "step_time"}
STAGES = {
    "sft": ["stage=sft"],
    "grpo": ["stage=grpo", "stage.num_generations=4", "stage.sampling.max_completion_length=16"],
}
STRATEGIES = ("ddp", "fsdp2")
COLUMNS = ["stage", "strategy", "kill", "after_step", "equal"]


def start(folder: Path, name: str, options: list[str]) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own; its processes are known by a variable."""
    command = [
        sys.executable, "-c", CODE, f"name={name}", f"paths.output_root={folder}/out",
        f"paths.data_root={folder}/data", "trainer.accelerator=cpu", "trainer.devices=2",
        "stage.batch_size=4", "stage.save_steps=1", "dataset.num_workers=0", "~callbacks.progress",
        *options,
    ]  # fmt: skip
    variables = {**os.environ, "OMP_NUM_THREADS": "1", MARK: name}
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            command, env=variables, stdout=log, stderr=log, start_new_session=True
        )


def num_steps(home: Path) -> int:
    """Count the steps that a run has written down."""
    files = list(home.glob("2*/metrics.jsonl"))
    return len(files[0].read_bytes().splitlines()) if files else 0


def kill(name: str) -> None:
    """Kill every process of a run, the command first, which has the lowest number."""
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        try:
            if f"{MARK}={name}\0".encode() in (folder / "environ").read_bytes() + b"\0":
                os.kill(int(folder.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue


def killed(folder: Path, name: str, options: list[str], kills: int, steps: int) -> list[int]:
    """Run to the end through a number of kills; returns the step after which each came."""
    seeded, after, home = random.Random(name), [], folder / "out" / name
    more: list[str] = []
    for number in range(kills):
        process = start(folder, name, [*options, *more])
        wanted = max(num_steps(home), (number + 1) * steps // (kills + 2))
        while num_steps(home) <= wanted and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.3 * seeded.random())
        assert process.poll() is None, f"{name} ended before its kill: {folder / name}.log"
        after.append(num_steps(home))
        kill(name)
        process.wait()
        more = ["resume=latest"] if (home / "latest").exists() else []
    assert start(folder, name, [*options, *more]).wait() == 0, folder / f"{name}.log"
    return after


def differing(one: Path, other: Path) -> list[str]:
    """Name what two finished runs differ in."""
    wrong = []
    rows = [
        [
            {k: v for k, v in row.items() if k not in TIMES}
            for row in read_jsonl(f / "metrics.jsonl")
        ]
        for f in (one, other)
    ]
    if rows[0] != rows[1]:
        wrong.append("metrics")
    for file in ("completions.jsonl", "checkpoint/model.safetensors"):
        there = [f / file for f in (one, other)]
        if any(path.exists() for path in there) and there[0].read_bytes() != there[1].read_bytes():
            wrong.append(file)
    states = [torch.load(f / "checkpoint" / "trainer_state.pt")["optimizer"] for f in (one, other)]
    for name, values in states[0]["state"].items():
        for key, value in values.items():
            if not torch.equal(
                torch.as_tensor(value), torch.as_tensor(states[1]["state"][name][key])
            ):
                wrong.append(f"optimizer: {name} {key}")
    assert read_json(other / "run.json")["status"] == "finished"
    return wrong


def record(rows: list[dict[str, object]]) -> None:
    """Write the rows of a run into results.csv, in place of those that it had there."""
    file, kept = HERE / "results.csv", []
    if file.exists():
        with file.open(newline="") as before:
            own = (rows[0]["stage"], rows[0]["strategy"])
            kept = [r for r in csv.DictReader(before) if (r["stage"], r["strategy"]) != own]
    with file.open("w", newline="") as after:
        writer = csv.DictWriter(after, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *rows])


def main() -> None:
    runs = {f"{stage}_{way}": (stage, way) for stage in STAGES for way in STRATEGIES}
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--runs", nargs="*", choices=runs, default=list(runs))
    asked = parser.parse_args()
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="resume_"))
    folder.mkdir(exist_ok=True)
    for whole in asked.runs:
        stage, strategy = runs[whole]
        options = [*STAGES[stage], f"trainer.strategy={strategy}", f"stage.max_steps={asked.steps}"]
        parted = f"{whole}_killed"
        assert start(folder, whole, options).wait() == 0, folder / f"{whole}.log"
        after = killed(folder, parted, options, asked.kills, asked.steps)
        wrong = differing(
            *((folder / "out" / name / "latest").resolve() for name in (whole, parted))
        )
        print(
            f"{stage} {strategy}: killed after {after}, differs in {wrong or 'nothing'}", flush=True
        )
        which = {"stage": stage, "strategy": strategy, "equal": not wrong}
        record([{**which, "kill": i, "after_step": step} for i, step in enumerate(after)])


if __name__ == "__main__":
    main()
