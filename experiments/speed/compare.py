"""Times one GRPO step of every contestant side by side: medians of paired rounds, into a JSON file.

    python experiments/speed/compare.py --prompt 970 --completion 64 --generations 8 --prompts 2 \
        --hidden 256 --layers 6 --json FILE

A round is one step of each contestant in turn, so that a busy moment of the machine hits them all.
The first round warms up and is not counted.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import resource
import statistics
from pathlib import Path

import clock
import floor
import torch
import transformers
from contestants import Naive, Ours, Times
from workload import add_arguments, cell_of

NAMES = ("ours", "naive", "trl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--json", type=Path, required=True, help="where the medians go")
    parser.add_argument("--contestants", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--checkpointing", action="store_true", help="ours with it")
    parser.add_argument("--trl-checkpointing", action="store_true", help="TRL with its default")
    args = parser.parse_args()
    clock.choose(args.clock)
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    logging.getLogger("trl").setLevel(logging.ERROR)
    result = measure(args)
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measure(args: argparse.Namespace) -> dict:
    """Runs the rounds and returns medians, ratios and the floor."""
    cell = cell_of(args)
    ours = Ours(cell, gradient_checkpointing=args.checkpointing)
    others = {"ours": ours}
    if "naive" in args.contestants:
        others["naive"] = Naive(cell)  # type: ignore[assignment]
    rounds: list[dict[str, Times]] = []
    rates: list[float] = []

    def finish(trl: Times | None) -> None:
        times = {name: contestant.step() for name, contestant in others.items()}
        rounds.append(times if trl is None else {**times, "trl": trl})
        rates.append(floor.matmul_rate())

    if "trl" in args.contestants:
        import trl_grpo

        trl_grpo.run(cell, args.repeats + 1, finish, checkpointing=args.trl_checkpointing)
    else:
        for _ in range(args.repeats + 1):
            finish(None)
    return {
        **vars(cell),
        "threads": args.threads,
        "repeats": args.repeats,
        "clock": args.clock,
        "weights": sum(w.numel() for w in ours.policy.parameters()),
        **_medians(rounds[1:]),
        **_floor(cell, ours, max(rates)),
        # of the whole process: one contestant's own only with --contestants ours
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "sharing_gain": floor.sharing_gain(cell),
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
    }


def _medians(rounds: list[dict[str, Times]]) -> dict[str, float]:
    """Medians of each contestant's parts, and of the ratios within a round."""
    out: dict[str, float] = {}
    for name in rounds[0]:
        for part in ("rollout", "update"):
            out[f"{name}_{part}_s"] = statistics.median(r[name][part] for r in rounds)
        out[f"{name}_s"] = statistics.median(sum(r[name].values()) for r in rounds)
        if name != "ours":
            for part in ("rollout", "update"):
                ratios = [r[name][part] / r["ours"][part] for r in rounds]
                out[f"{part}_over_{name}"] = statistics.median(ratios)
            ratios = [sum(r[name].values()) / sum(r["ours"].values()) for r in rounds]
            out[f"over_{name}"] = statistics.median(ratios)
    return out


def _floor(cell, ours: Ours, rate: float) -> dict[str, float]:
    counts = floor.operations(cell, ours.policy.language_model)
    seconds = {f"floor_{part}_s": count / rate for part, count in counts.items()}
    return {
        **seconds,
        "floor_s": sum(seconds.values()),
        "matmul_gflops": rate / 1e9,
    }


if __name__ == "__main__":
    main()
