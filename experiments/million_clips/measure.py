"""Measure what a manifest of a million clips costs each of 64 ranks, before any clip is read.

    python -m experiments.million_clips.measure FOLDER [VERSION] [NUM_ROWS]

Writes a manifest of reasoning samples into FOLDER (371 MB), then measures, each in a separate
process: the parts of a rank's start (CPU seconds and resident memory), what data workers add, the
order of 64 ranks, and how soon a resumed run has its next batch. Rows go to results.csv with
VERSION in their first column; rows of that version are replaced.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).parent
WORDS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
QUESTION = "<video>\n<audio>\nWhich emotion of the person is the most obvious to you?"
NUM_RANKS, BATCH_SIZE = 64, 512
"""Eight nodes of eight GPUs, and eight prompts a rank in a step."""
NUM_WORKERS, NUM_READ = 4, 2_000
"""Data workers, and the examples that each looks up."""
PLACES = (0.0, 0.25, 0.5, 0.75, 1.5)
"""Where a run is resumed, in epochs."""


def write_manifest(path: Path, num_rows: int) -> None:
    with path.open("w") as file:
        for i in range(num_rows):
            thought = f"In clip {i} a person looks down and speaks slowly, with a low voice."
            target = f"<think>{thought}</think>\n<answer>{WORDS[i % 7]}</answer>"
            asked = {"from": "human", "value": QUESTION}
            turns = [asked, {"from": "gpt", "value": target}]
            row = {"video": f"videos/{i % 1000:03d}/{i}.mp4", "conversations": turns}
            file.write(json.dumps(row) + "\n")


def memory(field: str = "Rss") -> float:
    """Of this process, in MB: all that is resident, or what no other process shares."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith(field))
    return kilobytes / 1024


class Parts:
    """Times and memory of one thing after another."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, float]] = []

    def do(self, part: str, work: Callable[[], Any]) -> Any:
        cpu, before = time.process_time(), memory()
        result = work()
        self.rows.append((part, "cpu_s", time.process_time() - cpu))
        self.rows.append((part, "rss_mb", memory() - before))
        print(*self.rows[-2], *self.rows[-1], file=sys.stderr, flush=True)
        return result


def start_up(folder: Path) -> list[tuple[str, str, float]]:
    """What ``tasks/train.build`` does with the manifest, in its order."""
    import torch
    from hydra import compose, initialize_config_dir

    from omni_rlvr.assembly.assemble import assemble
    from omni_rlvr.assembly.composed import Place
    from omni_rlvr.assembly.instantiate import check
    from omni_rlvr.assembly.origin import origin_of
    from omni_rlvr.assembly.policies import load_policy
    from omni_rlvr.assembly.splits import check_gold_labels, read_clips
    from omni_rlvr.assembly.stage import build_reward
    from omni_rlvr.cli import conf_dir
    from omni_rlvr.tasks.table import register

    torch.set_num_threads(1)
    register()
    overrides = [
        "stage=grpo", "dataset=r1_omni", f"dataset.root={folder}",
        f"dataset.annotations.train={folder}/manifest.jsonl",
        f"dataset.labels=[{','.join(WORDS)}]",
    ]  # fmt: skip
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        cfg = compose("config", overrides=overrides)
    config, typed = check(cfg)
    composed = assemble(cfg, Place(folder, None, config), typed, several_devices=True)
    policy = load_policy(composed, {})
    parts = Parts()
    clips = parts.do("read and check the manifest", lambda: read_clips(composed, ["train"]))
    parts.do("check the labels", lambda: check_gold_labels(clips, ["train"]))
    parts.do("score the gold answers", lambda: build_reward(composed, clips))
    loaded = Parts()
    loaded.do("model", lambda: load_policy(composed, {}))
    parts.do("look for special tokens", lambda: load_policy(composed, clips.examples))
    parts.rows[-2] = (*parts.rows[-2][:2], parts.rows[-2][2] - loaded.rows[0][2])
    examples = clips.examples["train"]
    parts.do("digest of the examples", lambda: origin_of(policy, examples))
    parts.do("order of an epoch", lambda: next(iter(sampler(len(examples), rank=0, start=0))))
    parts.rows.append(("rank", "rss_mb", memory()))
    parts.rows.append(("table", "rss_mb", examples.columns.nbytes / 2**20))
    parts.rows += workers(examples)
    cpu = time.process_time()
    for index in random.Random(0).sample(range(len(examples)), NUM_READ):
        examples[index]
    parts.rows.append(("one example", "cpu_s", (time.process_time() - cpu) / NUM_READ))
    return parts.rows


def sampler(num_rows: int, *, rank: int, start: int) -> Any:
    from omni_rlvr.data.loader import StepSampler

    return StepSampler(
        num_examples=num_rows, batch_size=BATCH_SIZE, num_steps=2 * num_rows // BATCH_SIZE,
        start=start, seed=0, rank=rank, num_ranks=NUM_RANKS,
    )  # fmt: skip


def workers(examples: Any) -> list[tuple[str, str, float]]:
    """What each data worker has of its own after it has looked up examples all over the table."""
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()

    def work(number: int) -> None:
        before = memory("Private")
        for index in random.Random(number).sample(range(len(examples)), NUM_READ):
            examples[index]
        results.put(memory("Private") - before)

    started = [context.Process(target=work, args=(n,)) for n in range(NUM_WORKERS)]
    for process in started:
        process.start()
    own = [results.get() for _ in started]
    for process in started:
        process.join()
    return [("data worker", "rss_mb", max(own))]


def order(num_rows: int) -> list[tuple[str, str, float]]:
    """The batches of 64 ranks: an epoch of each, and the first batch after a resume."""
    num_steps = num_rows // BATCH_SIZE
    next(iter(sampler(num_rows, rank=0, start=0)))  # imports
    times, seen = [], bytearray(num_rows)
    for rank in range(NUM_RANKS):
        cpu = time.process_time()
        batches = iter(sampler(num_rows, rank=rank, start=0))
        epoch = [next(batches) for _ in range(num_steps)]
        times.append(time.process_time() - cpu)
        for batch in epoch:
            assert len(batch) == BATCH_SIZE // NUM_RANKS
            for index in batch:
                seen[index] += 1
    assert max(seen) == 1  # no example on two ranks, or twice
    assert sum(seen) == num_steps * BATCH_SIZE
    rows = [("an epoch's batches of a rank", "cpu_s", max(times))]
    for place in PLACES:
        start = int(place * num_steps)
        cpu = time.process_time()
        first = next(iter(sampler(num_rows, rank=5, start=start)))
        rows.append((f"resume at epoch {place}", "cpu_s", time.process_time() - cpu))
        cpu = time.process_time()
        batches = iter(sampler(num_rows, rank=5, start=0))
        for _ in range(start):
            next(batches)
        assert next(batches) == first
        rows.append((f"drawn up to epoch {place}", "cpu_s", time.process_time() - cpu))
    return rows


def apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Do it in a process of its own, with its own memory and without what was imported here."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def main(folder: Path, version: str, num_rows: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.jsonl"
    if not manifest.exists():
        write_manifest(manifest, num_rows)
    for work, argument in ((order, num_rows), (start_up, folder)):
        record(version, num_rows, apart(work, argument))


def record(version: str, num_rows: int, rows: list[tuple[str, str, float]]) -> None:
    """Put rows into results.csv, in place of those of the same version, size and part."""
    file = HERE / "results.csv"
    new = pd.DataFrame(rows, columns=["part", "measure", "value"])
    new.insert(0, "version", version)
    new.insert(1, "rows", num_rows)
    new["value"] = new["value"].map(lambda value: float(f"{value:.4g}"))
    print(new.to_string(index=False), flush=True)
    if file.exists():
        new = pd.concat([pd.read_csv(file), new])
    new = new.drop_duplicates(["version", "rows", "part", "measure"], keep="last")
    new.to_csv(file, index=False)


if __name__ == "__main__":
    named = sys.argv[1:]
    main(
        Path(named[0]),
        named[1] if len(named) > 1 else "now",
        int(named[2]) if len(named) > 2 else 1_000_000,
    )
