"""Time one GRPO step of every contestant: medians of paired rounds, written to a JSON file.

    python experiments/speed/compare.py --prompt 970 --completion 64 --generations 8 --prompts 2 \
        --hidden 256 --layers 6 --json FILE

A round is one step of each contestant in turn, so that other load on the machine affects them all.
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

from omni_rlvr.training.trainer import keep_freed_memory

NAMES = ("ours", "naive", "trl", "trl_plain")
"""``trl`` with its own default for gradient checkpointing (on), ``trl_plain`` without."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--json", type=Path, required=True, help="where the medians go")
    parser.add_argument("--contestants", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--checkpointing", action="store_true", help="ours with it")
    args = parser.parse_args()
    clock.choose(args.clock)
    keep_freed_memory()  # for all contestants
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

    def finish(trl: dict[str, Times]) -> None:
        times = {name: contestant.step() for name, contestant in others.items()}
        rounds.append({**times, **trl})
        rates.append(floor.matmul_rate())

    trainers = [name for name in args.contestants if name.startswith("trl")]
    for name in trainers:  # one after the other, each in rounds with ours
        import trl_grpo

        first = len(rounds)
        trl_grpo.run(
            cell,
            args.repeats + 1,
            lambda times, name=name: finish({name: times}),  # type: ignore[misc]
            checkpointing=name == "trl",
        )
        del rounds[first]  # the warm-up
        others = {"ours": ours}
    if not trainers:
        for _ in range(args.repeats + 1):
            finish({})
        del rounds[0]
    return {
        **vars(cell),
        "threads": args.threads,
        "repeats": args.repeats,
        "clock": args.clock,
        "weights": sum(w.numel() for w in ours.policy.parameters()),
        **_medians(rounds),
        **_floor(cell, ours, max(rates)),
        # of the whole process: one contestant's own only with --contestants ours
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "sharing_gain": floor.sharing_gain(cell),
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}",
    }


def _medians(rounds: list[dict[str, Times]]) -> dict[str, float]:
    """Medians of each contestant's parts, and of the ratios within a round."""
    out: dict[str, float] = {}
    for name in {name: None for times in rounds for name in times}:
        mine = [times for times in rounds if name in times]
        for part in ("rollout", "update"):
            out[f"{name}_{part}_s"] = statistics.median(times[name][part] for times in mine)
        out[f"{name}_s"] = statistics.median(sum(times[name].values()) for times in mine)
        if name != "ours":
            for part in ("rollout", "update"):
                ratios = [times[name][part] / times["ours"][part] for times in mine]
                out[f"{part}_over_{name}"] = statistics.median(ratios)
            ratios = [sum(times[name].values()) / sum(times["ours"].values()) for times in mine]
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
