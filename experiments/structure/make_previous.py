"""Make tests/fixtures/previous: the files that a version writes, for compatibility tests later.

    PYTHONPATH=TREE/src python experiments/structure/make_previous.py DIR

A checkpoint, a fine-tuning and an RLVR run that were stopped after two of four steps, an evaluation
and a sweep of two runs, all of one very small model. The commands are run as a user runs them, in a
folder of a fixed name, which the files then contain; a test replaces it. Files that no version
reads again are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from pytorch_lightning import Callback
from transformers import Qwen2Config, SiglipVisionConfig, WhisperConfig

from omni_rlvr.data.synthetic import generate
from omni_rlvr.data.synthetic.emotions import LABELS
from omni_rlvr.models.composed import tiny
from omni_rlvr.models.composed.model import OmniConfig, OmniModel
from omni_rlvr.models.loading.load import load_policy

ROOT = Path("/tmp/omni_rlvr_previous")
"""Where the files are made, and the name that they mention."""
NUM_CLIPS, NUM_TEST = 12, 5
SIZES = {"VOCAB_SIZE": 384, "IMAGE_SIZE": 32, "VIDEO_MERGE": 2, "NUM_FRAMES": 2, "SOUND_S": 1}
"""Names in ``models.tiny`` and what they are set to: what a prompt and its media are made of."""
COMMON = (
    "dataset=r1_omni",
    f"dataset.root={ROOT}",
    f"dataset.annotations.train={ROOT}/train.json",
    f"dataset.annotations.test={ROOT}/test.json",
    "dataset.num_workers=0",
    f"model.path={ROOT}/base",
    "trainer.accelerator=cpu",
    f"paths.output_root={ROOT}/outputs",
    f"paths.data_root={ROOT}/data",
)
FOUR = ("stage.max_steps=4", "stage.save_steps=2", "stage.save_total_limit=1")
GRPO = (
    "stage=grpo",
    "stage.batch_size=2",
    "stage.num_generations=3",
    "stage.sampling.max_completion_length=24",
)
COMMANDS = {
    "sft": ("name=sft", "stage=sft", "stage.batch_size=3", *FOUR),
    "grpo": (
        "name=grpo",
        *GRPO,
        *FOUR,
        "model/trainable=lora",
        "model.trainable.lora.r=2",
        "reward=as_published",
        "callbacks=probe",
        "callbacks.probe.every_n_steps=2",
        "callbacks.probe.num_clips=2",
        "callbacks.probe.max_completion_length=8",
    ),
    "evaluate": (
        "name=evaluate",
        "task=evaluate",
        "task.max_completion_length=24",
        "task.num_resamples=50",
    ),
    "sweep": (
        "-m",
        "name=sweep",
        *GRPO,
        "stage.max_steps=1",
        "rollout=shared_prefix,hf",
        "task.evaluate_after.max_completion_length=24",
        "task.evaluate_after.num_resamples=50",
    ),
    "predict": (
        "name=predict",
        "task=predict",
        f"+video={ROOT}/clips/000000.mp4",
        "task.max_completion_length=24",
    ),
    "report": (
        "name=report",
        "task=report",
        f"runs=[{ROOT}/outputs/sweep/sweep,{ROOT}/outputs/evaluate/run]",
    ),
}
"""Name -> overrides besides ``COMMON``; those of stopped runs go on with ``resume=DIR``."""
STOPPED = ("sft", "grpo")
KEPT = (
    "run.json",
    "metrics.jsonl",
    "metrics.csv",
    "completions.jsonl",
    "metrics.json",
    "predictions.jsonl",
    "sweep.jsonl",
    "sweep.csv",
)


class StopAfter(Callback):
    """Presses Ctrl-C after a step; taken out of the config that the run leaves."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int) -> None:
        if pl_module.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    """Makes everything and copies what is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="is replaced, but for its README")
    folder = parser.parse_args().folder
    ROOT.mkdir()
    try:
        make_data()
        make_base()
        for name in STOPPED:
            run(name, "+callbacks.stop._target_=make_previous.StopAfter", "+callbacks.stop.step=2")
        for name in ("evaluate", "sweep", "predict", "report"):
            run(name)
        for path in (p for p in folder.iterdir() if p.name != "README.md"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        keep(folder)
        for name in STOPPED:
            run(name, f"resume={ROOT}/outputs/{name}/run")
        keep_expected(folder / "expected")
    finally:
        shutil.rmtree(ROOT)


def make_data() -> None:
    """Makes the clips that end-to-end tests share, and annotations with short reasoning."""
    (ROOT / "clips").mkdir()
    whole = replace(generate.SPLITS["cold_start"], one_modality=0.0)
    rows = []
    with patch.dict(generate.SPLITS, cold_start=whole):
        for i in range(NUM_CLIPS):
            label = LABELS[i % len(LABELS)]
            row = generate.make_clip(ROOT / "clips", "cold_start", 0, i, label)
            question = row["conversations"][0]
            target = f"<think>{i} looks {label}</think> <answer>{label}</answer>"
            rows.append(
                {
                    "video": row["video"],
                    "conversations": [question, {"from": "gpt", "value": target}],
                }
            )
    (ROOT / "train.json").write_text(json.dumps(rows, indent=1))
    (ROOT / "test.json").write_text(json.dumps(rows[:NUM_TEST], indent=1))


def make_base() -> None:
    """Trains a model of 30,000 weights until its greedy answers do not hang on rounding."""
    rows = json.loads((ROOT / "train.json").read_text())
    texts = [turn["value"] for row in rows for turn in row["conversations"]]
    with patch.multiple(tiny, **SIZES):
        processor = tiny.build_processor(tiny.train_tokenizer([*texts, "user", "assistant"]))
    tokenizer = processor.tokenizer
    torch.manual_seed(0)
    model = OmniModel(
        OmniConfig(
            vision_config=SiglipVisionConfig(
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=SIZES["IMAGE_SIZE"],
                patch_size=tiny.PATCH_SIZE,
                vision_use_head=False,
            ),
            audio_config=WhisperConfig(
                d_model=16,
                encoder_ffn_dim=32,
                encoder_layers=1,
                encoder_attention_heads=2,
                num_mel_bins=tiny.MEL_BINS,
                max_source_positions=50 * SIZES["SOUND_S"],
                dropout=0.0,
            ),
            text_config=Qwen2Config(
                vocab_size=len(tokenizer),
                hidden_size=24,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=512,
                tie_word_embeddings=True,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                bos_token_id=None,
            ),
            video_merge=SIZES["VIDEO_MERGE"],
            audio_merge=tiny.AUDIO_MERGE,
        )
    )
    model.processor = processor
    model.save(ROOT / "random")
    command(
        "name=base",
        "stage=sft",
        "stage.max_steps=300",
        "stage.save_steps=300",
        "stage.batch_size=12",
        "optimizer.lr=0.01",
        *COMMON,
        f"model.path={ROOT}/random",
        "hydra.run.dir=" + str(ROOT / "outputs/base/run"),
    )
    load_policy(str(ROOT / "outputs/base/run/checkpoint"), "float32", None).save(ROOT / "base")


def run(name: str, *more: str) -> None:
    """Runs one of ``COMMANDS``, all but the sweep into a folder that has no date in its name."""
    place = () if name == "sweep" else (f"hydra.run.dir={ROOT}/outputs/{name}/run",)
    command(*COMMANDS[name], *COMMON, *place, *more)


def command(*arguments: str) -> None:
    """Runs the command; a run that was stopped ends with 130."""
    start = "import sys; sys.argv[0] = 'omni-rlvr'; from omni_rlvr.cli import main; main()"
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", start, *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode not in (0, 128 + signal.SIGINT):
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}")


def keep(folder: Path) -> None:
    """Copies the files that a later version reads, and how they were made."""
    for name in ("train.json", "test.json"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "base", folder / "base")
    outputs = ROOT / "outputs"
    for name in ("sft", "grpo", "evaluate", "sweep"):
        for path in sorted((outputs / name).rglob("*")):
            if path.name in KEPT and "checkpoint" not in str(path.parent):
                to = folder / path.relative_to(ROOT)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, to)
    for name in STOPPED:
        there = folder / "outputs" / name / "run"
        shutil.copytree(outputs / name / "run" / "checkpoints", there / "checkpoints")
        (there / "checkpoint").symlink_to("checkpoints/step_000002")
        record = json.loads((there / "run.json").read_text())
        del record["config"]["callbacks"]["stop"]
        record["command"] = [word for word in record["command"] if "callbacks.stop" not in word]
        (there / "run.json").write_text(json.dumps(record, indent=1) + "\n")
    commands = {"root": str(ROOT), "common": COMMON, **COMMANDS}
    (folder / "commands.json").write_text(json.dumps(commands, indent=1) + "\n")


def keep_expected(folder: Path) -> None:
    """Copies what the same commands, and the stopped runs to their ends, gave here."""
    folder.mkdir()
    outputs = ROOT / "outputs"
    shutil.copy(outputs / "predict" / "run" / "predictions.jsonl", folder)
    shutil.copy(outputs / "report" / "run" / "runs.csv", folder)
    shutil.copy(outputs / "sft" / "run" / "metrics.jsonl", folder / "sft_metrics.jsonl")
    shutil.copy(outputs / "grpo" / "run" / "completions.jsonl", folder / "grpo_completions.jsonl")


if __name__ == "__main__":
    main()
