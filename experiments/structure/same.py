"""Compare the results of two checkouts: a cold start of one epoch, then three RLVR steps.

    python experiments/structure/same.py OLD NEW --work FOLDER

Each checkout makes its own clips and features, of the quickstart's splits, and trains the
quickstart's model with one seed and one thread. Both do RLVR from the old checkout's cold start, so
that a difference in the first run does not affect the second. Texts must be equal, numbers equal to
1e-6, weights up to rounding; otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file
from trees import commit_of, run

TOLERANCE = 1e-6
"""Largest relative difference of numbers; below 1e-9 in size, of absolute ones."""
TINY = 1e-9
MAX_WEIGHT = 1e-5
"""Largest absolute difference of weights: float32 rounding, through Adam's division."""
CLOCK = re.compile(r"/s$|_s$|time|second|memory|_gb$|_mb$|bytes", re.IGNORECASE)
"""Names of metrics that a clock or the machine says."""
SMALL = ("dataset.num_workers=0", "trainer.accelerator=cpu", "seed=0")


def cold_start(tree: Path, folder: Path, num_clips: int) -> None:
    """Train one epoch into ``folder/cold_start``."""
    run(
        tree,
        folder,
        "+experiment=cold_start",
        *places("cold_start"),
        f"dataset.splits.cold_start.num_clips={num_clips}",
        "stage.num_train_epochs=1",
        threads=1,
    )


def rlvr(tree: Path, folder: Path, start: Path, num_clips: int) -> None:
    """Do three steps and the probe from a checkpoint into ``folder/rlvr``."""
    run(
        tree,
        folder,
        "+experiment=rlvr",
        *places("rlvr"),
        f"model.path={start}",
        f"dataset.splits.rlvr.num_clips={num_clips}",
        "stage.max_steps=3",
        "callbacks.probe.every_n_steps=3",
        "callbacks.probe.num_clips=8",
        threads=1,
    )


def places(name: str) -> tuple[str, ...]:
    """Return overrides that keep a run in the working folder."""
    return (*SMALL, "paths.output_root=outputs", "paths.data_root=data", f"hydra.run.dir={name}")


def differences(one: object, other: object, key: str = "") -> Iterator[str]:
    """Find what differs between two values read from JSON, and say it."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            if CLOCK.search(name):
                continue
            if name not in one or name not in other:
                yield f"{key}{name} is only in the {'new' if name in other else 'old'} one"
            else:
                yield from differences(one[name], other[name], f"{key}{name}")
    elif isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            yield f"{key}: {len(one)} rows, {len(other)} rows"
        for i, pair in enumerate(zip(one, other, strict=False)):
            yield from differences(*pair, f"{key}[{i}] ")
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TINY):
            yield f"{key}: {one!r}, {other!r}"
    elif one != other:
        yield f"{key}: {one!r}, {other!r}"


def weight_difference(old: Path, new: Path) -> float:
    """Find the largest absolute difference of two checkpoints' weights; names must agree."""
    one, other = (load_file(folder / "model.safetensors") for folder in (old, new))
    if one.keys() != other.keys():
        sys.exit(f"weights have other names: {sorted(one.keys() ^ other.keys())}")
    return max((one[name] - other[name]).abs().max().item() for name in one)


def rows(file: Path) -> list[dict]:
    """Read JSON lines; fine-tuning has no completions, and no file of them."""
    return (
        [json.loads(line) for line in file.read_text().split("\n") if line] if file.exists() else []
    )


def compare(old: Path, new: Path) -> bool:
    """Compare two run folders, print what was found, and say whether they are the same."""
    found = []
    for file in ("metrics.jsonl", "completions.jsonl"):
        one, other = rows(old / file), rows(new / file)
        print(f"{old.name}/{file}: {len(one)} rows, {len(other)} rows")
        found += differences(one, other, file)
    gap = weight_difference(old / "checkpoint", new / "checkpoint")
    print(f"{old.name}: largest difference of a weight {gap:.3g}")
    for line in found[:20]:
        print(f"  differs: {line}")
    print(f"  {len(found)} differences" if found else "  texts equal, numbers equal to 1e-6")
    return not found and gap <= MAX_WEIGHT


def main() -> None:
    """Runs what is not there yet, and compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="a new folder")
    parser.add_argument("--cold-start-clips", type=int, default=580)
    parser.add_argument("--rlvr-clips", type=int, default=64)
    args = parser.parse_args()
    work = args.work.resolve()
    folders = (work / "old", work / "new")
    print(f"old {commit_of(args.old)}, new {commit_of(args.new)}")
    for tree, folder in zip((args.old, args.new), folders, strict=True):
        cold_start(tree, folder, args.cold_start_clips)
        rlvr(tree, folder, folders[0] / "cold_start" / "checkpoint", args.rlvr_clips)
    same = [compare(folders[0] / name, folders[1] / name) for name in ("cold_start", "rlvr")]
    sys.exit(0 if all(same) else 1)


if __name__ == "__main__":
    main()
