"""Test whether the attribution finds the deciding modality when only one modality decides.

Clips of the synthetic caption split draw every cue independently, so that face and voice are
unrelated. They are labelled by only the pitch, or only the mouth; the tiny base learns these
labels, and ``task=attribute`` should give all of the value, and the swaps, to this modality.

    python experiments/transparency/one_modality.py WORK_FOLDER
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from omni_rlvr.data.synthetic.generate import ANNOTATIONS, ensure_split
from omni_rlvr.text.prompts import EMOTION_QUESTION

NUM_CLIPS, NUM_TRAIN, SEED = 1000, 800, 0
DECIDES = {
    "audio": ("pitch", {"high": "happy", "low": "sad", "middle": "neutral"}),
    "video": (
        "mouth",
        {"smiling": "happy", "downturned": "sad", "relaxed": "neutral", "gaping": "surprise"},
    ),
}
"""Modality -> the cue that decides, and the label of each of its values."""


def main(work: Path) -> None:
    clips = ensure_split(
        work / "data" / "synthetic", "caption", num_clips=NUM_CLIPS, seed=SEED, num_workers=2
    )
    rows = json.loads((clips / ANNOTATIONS).read_text())
    results = {}
    for modality, (cue, labels) in DECIDES.items():
        name = f"one_modality_{modality}"
        annotate(work / name, rows, cue, labels)
        shared = [
            "dataset=r1_omni",
            f"dataset.root={clips}",
            f"dataset.annotations.train={work}/{name}_train.json",
            f"dataset.annotations.test={work}/{name}_test.json",
            f"dataset.labels=[{','.join(labels.values())}]",
            f"paths.output_root={work}/outputs",
            f"paths.data_root={work}/data",
            "trainer.accelerator=cpu",
            f"seed={SEED}",
        ]
        started = time.perf_counter()
        command(*shared, f"name={name}", "stage.num_train_epochs=6", "optimizer.lr=2e-3")
        model = work / "outputs" / name / "latest" / "checkpoint"
        command(*shared, f"name={name}_attribute", "task=attribute", f"model.path={model}")
        folder = work / "outputs" / f"{name}_attribute" / "latest" / "test"
        report = json.loads((folder / "attribution.json").read_text())
        every, swap = report["all"], report["swap"]
        results[modality] = {
            "cue": cue,
            "accuracy": {k: every[f"accuracy_{k}"] for k in ("none", "audio", "video", "both")},
            "share": every[f"share_{modality}"],
            "follows": {k: swap[k] for k in ("video", "audio", "neither")},
            "num_clips": every["num_whole"],
            "seconds": round(time.perf_counter() - started),
        }
        print(json.dumps({modality: results[modality]}, indent=1), flush=True)
    (Path(__file__).parent / "one_modality.json").write_text(json.dumps(results, indent=1) + "\n")


def annotate(stem: Path, rows: list[dict], cue: str, labels: dict[str, str]) -> None:
    """Writes the clips' annotations again, with labels that one cue decides."""
    turns = [
        {
            **row,
            "conversations": [
                {"from": "human", "value": EMOTION_QUESTION},
                {"from": "gpt", "value": labels[row["cues"][cue]]},
            ],
        }
        for row in rows
    ]
    for split, part in (("train", turns[:NUM_TRAIN]), ("test", turns[NUM_TRAIN:])):
        stem.with_name(f"{stem.name}_{split}.json").write_text(json.dumps(part))


def command(*overrides: str) -> None:
    """Runs omni-rlvr."""
    main = "from omni_rlvr.cli import main; main()"
    subprocess.run([sys.executable, "-c", main, *overrides], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
