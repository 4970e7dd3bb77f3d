"""A run folder as task=attribute leaves it, made without a model; its clips are real."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omni_rlvr.data.synthetic.generate import write_clip
from omni_rlvr.record import append_jsonl, write_json
from omni_rlvr.tasks.attribute import tables
from omni_rlvr.tasks.attribute.selection import choose, measured

LABELS = ["happy", "sad", "fear"]
WORDS = {"visual": ["brows", "face"], "vocal": ["voice", "pitch"]}
SAID = "<think>The face shows raised brows. The voice has high pitch.</think>\n<answer>{}</answer>"
RATE = 16_000


@dataclass(frozen=True)
class Made:
    """One clip."""

    name: str
    picture: bool = True
    sound: bool = True
    said: str = SAID.format("happy")


def make_attribution(
    folder: Path, clips: Sequence[Made], *, num_chosen: int = 100, num_generations: int = 2
) -> Path:
    """Makes a run on split ``test``; gold labels go round, scores are drawn with a fixed seed."""
    split = folder / "test"
    split.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    scores = tables.ClipScores(
        [clip.name for clip in clips],
        [LABELS[i % len(LABELS)] for i in range(len(clips))],
        [clip.picture for clip in clips],
        [clip.sound for clip in clips],
        2 * torch.randn(len(clips), 4, len(LABELS), generator=generator) - 4,
    )
    table = tables.clip_table(scores, LABELS, value="log_prob")
    spread = tables.distribution_table(scores, LABELS)
    table.to_parquet(split / "attribution.parquet")
    spread.to_parquet(split / "distributions.parquet")
    write_json(split / "attribution.json", _report(table))
    ranked = measured(table, spread, LABELS)
    by_clip = ranked.set_index("clip")[["confidence", "conflict"]]
    known = {clip.name: clip for clip in clips}
    labels = dict(zip(scores.ids, scores.labels, strict=True))
    for name, rules in choose(ranked, num_chosen=num_chosen).items():
        clip, path = known[name], _write(folder / "clips", len(by_clip), known[name])
        row = {"id": name, "rules": rules, **by_clip.loc[name].to_dict()}
        files = {"video": path if clip.picture else None, "audio": None if clip.picture else path}
        said = {"question": "How?", "completion": clip.said, "answer": "happy"}
        claims: dict[str, Any] = {"num_claims": 2, "false_claims": ["raised brows"]}
        append_jsonl(split / "chosen.jsonl", [row | files | said | claims])
        append_jsonl(
            split / "completions.jsonl",
            [
                {"id": name, "label": labels[name], "completion": clip.said}
                | {"reward": float(i), "advantage": i - 0.5, "rewards/accuracy": float(i)}
                for i in range(num_generations)
            ],
        )
    config = {"lexicon": WORDS, "dataset": {"decode_timeout_s": 20, "max_clips_per_process": 500}}
    write_json(folder / "run.json", {"config": config, "commit": "abc", "status": "finished"})
    return folder


def _report(table: Any) -> dict[str, Any]:
    return {
        "dataset": "made",
        "split": "test",
        "method": {
            "value": "log_prob of the label",
            "players": ["audio", "video"],
            "absent": "drop",
            "model": "<i>model</i>",
        },
        "labels": LABELS,
        "all": tables.summary(table, num_resamples=20),
        "by_class": tables.by_class(table, LABELS, num_resamples=20),
        "swap": None,
        "faithfulness": {"agreement": None, "hallucination": None, "same_answer": 0.25},
    }


def _write(folder: Path, seed: int, clip: Made) -> str:
    """Writes one second; a slash is the one thing that a file name cannot hold."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    path = folder / f"{clip.name.replace('/', '|')}.{'mp4' if clip.picture else 'm4a'}"
    frames = rng.integers(0, 255, (12, 64, 64, 3), dtype=np.uint8)
    sound = 0.3 * np.sin(np.arange(RATE) / 9).astype(np.float32)
    write_clip(path, frames if clip.picture else None, 12, sound if clip.sound else None, RATE)
    return str(path)


def blocks(page: str) -> dict[str, Any]:
    """The data blocks of a page: id -> value."""
    opening = '<script type="application/json" id="'
    parts = [part.split("</script>")[0] for part in page.split(opening)[1:]]
    return {part.split('">', 1)[0]: json.loads(part.split('">', 1)[1]) for part in parts}
