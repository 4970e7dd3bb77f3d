"""Write the files of 200 runs of a sweep, and time the command ``omni-rlvr task=report`` on them.

A run has 150 lines of metrics, two splits of 500 predictions each, and a config as the command
composes it: 5 format weights x 4 betas x 10 seeds.
"""

from __future__ import annotations

import copy
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hydra import compose, initialize_config_dir

from omni_rlvr.assembly.instantiate import check
from omni_rlvr.cli import conf_dir
from omni_rlvr.data.synthetic.emotions import LABELS
from omni_rlvr.record import append_jsonl, write_json
from omni_rlvr.tasks.evaluate import score
from omni_rlvr.tasks.table import register

WEIGHTS, BETAS, SEEDS = (0, 0.25, 0.5, 1, 2), (0, 0.02, 0.04, 0.1), range(10)
REPORT = ("task=report", "task.baseline=format:1")
CODE = "import sys; from omni_rlvr.cli import main; sys.argv[0] = 'omni-rlvr'; main()"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        register()
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            config, _ = check(compose("config", overrides=["stage=grpo"]))
        for weight in WEIGHTS:
            for beta in BETAS:
                for seed in SEEDS:
                    make_run(root / "runs" / f"{weight}_{beta}_{seed}", config, weight, beta, seed)
        num_runs = len(list((root / "runs").iterdir()))
        started = time.perf_counter()
        command = [sys.executable, "-c", CODE, *REPORT, f"runs={root}/runs"]
        subprocess.run([*command, f"paths.output_root={root}/out"], check=True)
        wall = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime
        print(f"{num_runs} runs: {wall:.1f} s, of which {cpu:.1f} s of CPU time")


def make_run(folder: Path, config: dict, weight: float, beta: float, seed: int) -> None:
    """Writes one run; its scores fall with the distance of the weight from 1."""
    rng = random.Random(f"{weight} {beta} {seed}")
    config = copy.deepcopy(config)
    config["seed"], config["stage"]["beta"] = seed, beta
    config["reward"]["weights"]["format"] = weight
    folder.mkdir(parents=True)
    record = {"status": "finished", "commit": "made", "seed": seed, "config": config}
    times = {"started": "2026-01-01T12:00:00", "ended": "2026-01-01T12:05:00"}
    write_json(folder / "run.json", record | times)
    names = ("reward", "rewards/accuracy/mean", "rewards/format/mean", "kl", "loss", "entropy")
    rows = [{"step": i, **{n: rng.random() for n in names}} for i in range(1, 151)]
    append_jsonl(folder / "metrics.jsonl", rows)
    for split in ("test", "ood"):
        predictions = [predict(rng, i, 0.8 - 0.1 * abs(weight - 1)) for i in range(500)]
        (folder / split).mkdir()
        append_jsonl(folder / split / "predictions.jsonl", predictions)
        write_json(folder / split / "metrics.json", score(predictions, LABELS, num_resamples=10))


def predict(rng: random.Random, index: int, share_right: float) -> dict[str, object]:
    """One clip's row, right with the given chance."""
    label = LABELS[index % len(LABELS)]
    predicted = label if rng.random() < share_right else rng.choice(LABELS)
    return {
        "id": f"{index:06d}.mp4",
        "label": label,
        "predicted": predicted,
        "correct": predicted == label,
        "well_formed": True,
        "completion": json.dumps("a completion of some length " * 8),
    }


if __name__ == "__main__":
    main()
