"""Time two checkouts alternately: the median RLVR step, and how long ``--help`` takes.

    python experiments/structure/speed.py OLD NEW --work FOLDER

FOLDER is the one that ``same.py`` filled: RLVR uses its clips, and starts from the old checkout's
cold start in it. A first round fills the feature caches and is not counted. The order of the two
alternates between rounds. Rows are added to speed.csv next to this file.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from pathlib import Path

from same import places
from trees import commit_of, run

RESULTS = Path(__file__).with_name("speed.csv")
COLUMNS = ("old", "new", "measure", "round", "old_s", "new_s")


def step_s(tree: Path, folder: Path, name: str, args: argparse.Namespace) -> float:
    """Train some RLVR steps and return the median seconds of a step."""
    run(
        tree,
        folder,
        "+experiment=rlvr",
        *places(name),
        f"model.path={args.work.resolve()}/old/cold_start/checkpoint",
        f"dataset.splits.rlvr.num_clips={args.rlvr_clips}",
        f"stage.max_steps={args.steps}",
        "callbacks=default",
        threads=args.threads,
    )
    with (folder / name / "metrics.jsonl").open() as file:
        return statistics.median(json.loads(line)["step_time"] for line in file)


def help_s(tree: Path, folder: Path, args: argparse.Namespace) -> float:
    """Return the seconds that ``--help`` takes, Python's start included."""
    start = time.perf_counter()
    run(tree, folder, "--help", threads=args.threads)
    return time.perf_counter() - start


def main() -> None:
    """Times in turns, prints medians and their ratio, and adds to speed.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rlvr-clips", type=int, default=64, help="as given to same.py")
    args = parser.parse_args()
    trees = {"old": args.old, "new": args.new}
    commits = [commit_of(tree) for tree in trees.values()]
    seconds: dict[str, list[dict[str, float]]] = {"step": [], "help": []}
    for number in range(args.rounds + 1):
        order = ("old", "new") if number % 2 else ("new", "old")
        steps, helps = {}, {}
        for which in order:
            tree, folder = trees[which], args.work.resolve() / which
            steps[which] = step_s(tree, folder, f"timed_{time.time_ns()}", args)
            helps[which] = help_s(tree, folder, args)
        if number > 0:  # the first one fills caches
            seconds["step"].append(steps)
            seconds["help"].append(helps)
            print(f"round {number}: step {steps}, help {helps}", flush=True)
    is_new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        write = csv.writer(file, lineterminator="\n").writerow
        if is_new:
            write(COLUMNS)
        for measure, rounds in seconds.items():
            for number, pair in enumerate(rounds, 1):
                write([*commits, measure, number, f"{pair['old']:.4f}", f"{pair['new']:.4f}"])
    for measure, rounds in seconds.items():
        old, new = (statistics.median(pair[which] for pair in rounds) for which in trees)
        ratios = statistics.median(pair["new"] / pair["old"] for pair in rounds)
        print(
            f"{measure}: old {old:.4f} s, new {new:.4f} s, ratio {new / old:.3f} "
            f"(median of the rounds' ratios {ratios:.3f})"
        )


if __name__ == "__main__":
    main()
