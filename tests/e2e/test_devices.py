"""Several devices: what is computed and written is what one device computes and writes.

Two processes on the CPU stand for two GPUs; the same code takes them to either.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from make_ranks import TWO, run_in_ranks
from safetensors.torch import load_file
from test_resume import SPREAD, assert_same, num_lines, steady, wait_for

from omni_rlvr.record import read_json, read_jsonl

SGD = (
    "optimizer._target_=torch.optim.SGD",
    "~optimizer.betas",
    "+optimizer.momentum=0.9",
    "optimizer.lr=0.1",
)
"""Moves weights by their gradients; Adam would divide one that is only rounding by its own size."""
SFT = ("stage=sft", "stage.max_steps=3", "stage.batch_size=4", "stage.micro_batch_size=2", *SGD)
GRPO = (
    *SGD,
    "stage=grpo",
    "stage.max_steps=2",
    "stage.batch_size=4",
    "stage.num_generations=3",
    "stage.sampling.max_completion_length=8",
    *SPREAD,
)


def assert_same_run(two: Path, one: Path) -> None:
    """Compares all that training left behind, numbers to rounding."""
    assert read_json(two / "run.json")["status"] == "finished"
    rows = [steady(folder) for folder in (two, one)]
    assert len(rows[0]) == len(rows[1]) > 1
    for ours, wanted in zip(*rows, strict=True):
        assert ours == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    completions = [read_jsonl(folder / "completions.jsonl") for folder in (two, one)]
    for ours, wanted in zip(*completions, strict=True):
        assert ours["advantage"] == pytest.approx(wanted["advantage"], abs=1e-6)
        assert {**ours, "advantage": 0} == {**wanted, "advantage": 0}
    assert (
        read_json(two / "run.json")["skipped_clips"] == read_json(one / "run.json")["skipped_clips"]
    )
    weights = [load_file(*(folder / "checkpoint").glob("*.safetensors")) for folder in (two, one)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> list[str]:
    """Overrides: clips of which two cannot be read and four have no sound, two a step."""
    rows = json.loads((clips / "train.json").read_text())
    for i in range(6):
        rows[i]["video"] = str(clips / ("silent.mp4" if i > 1 else "nowhere.mp4"))
    file = tmp_path_factory.mktemp("mixed") / "train.json"
    file.write_text(json.dumps(rows))
    skip = "dataset.on_bad_media=skip"
    return [f"dataset.annotations.train={file}", skip, "stage.batch_size=2", "stage.max_steps=6"]


@pytest.mark.parametrize("option", ["stage.max_tokens_per_micro_batch=300", "model/trainable=lora"])
def test_sft(runner, option: str) -> None:
    assert_same_run(run_in_ranks(runner, *SFT, option), runner(*SFT, option))


@pytest.mark.parametrize("stage", [SFT, GRPO], ids=["sft", "grpo"])
def test_a_rank_without_a_clip_or_without_a_gradient(runner, mixed, stage) -> None:
    two, one = run_in_ranks(runner, *stage, *mixed), runner(*stage, *mixed)
    assert_same_run(two, one)
    assert sum(row["media/failed"] for row in read_jsonl(two / "metrics.jsonl")) == 2


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("loss_type=dapo", "num_minibatches=2", "num_iterations=2", "max_resample_times=2"),
        ("loss_type=bnpo", "advantage_estimator=reinforce_plus_plus", "kl_in_reward=true"),
        ("top_entropy_quantile=0.3", "scale_rewards=batch", "modality_dropout=0.5", "beta=0"),
        ("multi_objective_aggregation=normalize_then_sum", "num_minibatches=3", "entropy_coef=0.1"),
    ],
    ids=lambda options: options[0].partition("=")[2] if options else "grpo",
)
def test_grpo(runner, options: tuple[str, ...]) -> None:
    grpo = (*GRPO, *(f"stage.{option}" for option in options))
    two, one = run_in_ranks(runner, *grpo), runner(*grpo)
    assert_same_run(two, one)
    assert any(row["advantage"] for row in read_jsonl(one / "completions.jsonl"))


def test_ctrl_c_stops_all_together_and_resume_goes_on(runner) -> None:
    long = (*SFT, "stage.max_steps=40", "name=long", "stage.save_steps=100")
    process = runner.start(*long, TWO)
    home = runner.root / "long"
    wait_for(process, lambda: num_lines(home) >= 2, limit_s=240)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert output.count("stopping after this step") == 1
    folder = (home / "latest").resolve()
    assert f"resume={folder} goes on" in output
    assert read_json(folder / "run.json")["status"] == "interrupted"
    assert read_json(folder / "run.json")["command"][0] == "omni-rlvr"
    assert run_in_ranks(runner, *long, "resume=latest") == folder
    assert_same_run(folder, runner(*long))
    assert runner(*long, f"resume={folder}") == folder  # the number of devices may change


def test_an_error_of_one_rank_ends_all_with_its_message(runner, mixed) -> None:
    read_by_a_worker = "dataset.num_workers=1"  # a fork of a rank that listens for its launcher
    runner.overrides += [*mixed, "dataset.on_bad_media=raise", TWO, "name=wrong", read_by_a_worker]
    done = runner.command(*SFT, timeout=240)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "nowhere.mp4" in errors[0]
    assert "Traceback" not in done.stderr
    record = read_json(next((runner.root / "wrong").glob("*/run.json")))
    assert record["status"] == "failed"
    assert record["error"].startswith("MediaError: ")


def test_evaluation_is_shared_and_scored_as_a_whole(runner) -> None:
    two, one = (run(*runner.evaluate) for run in (partial(run_in_ranks, runner), runner))
    for file in ("test/predictions.jsonl", "test/metrics.json"):  # five clips: three and two
        assert (two / file).read_text() == (one / file).read_text()


def assert_same_files(two: Path, one: Path, files: Sequence[str]) -> None:
    for file in files:
        assert (two / file).read_bytes() == (one / file).read_bytes(), file
    records = [read_json(folder / "run.json") for folder in (two, one)]
    for key in ("status", "skipped_clips", "clip_notes"):
        assert records[0][key] == records[1][key]
    assert records[0]["skipped_clips"]


def test_predictions_of_a_folder_are_shared(runner, clips: Path) -> None:
    folder = runner.root.parent / "some"
    shutil.copytree(clips / "clips", folder)
    (folder / "torn.mp4").write_bytes(b"torn")
    predict = ("task=predict", "task.max_completion_length=6", "task.temperature=1")
    predict += (f"+video={folder}", "dataset.on_bad_media=skip")
    predict += ("task.batch_size=5",)  # three batches: two and one
    assert_same_files(run_in_ranks(runner, *predict), runner(*predict), ["predictions.jsonl"])


def test_attribution_is_shared_and_so_are_the_clips_of_its_page(runner, mixed: list[str]) -> None:
    attribute = ["task=attribute", "task.splits=[train]", "task.max_completion_length=6"]
    attribute += [text for text in mixed if text.startswith("dataset.")]  # two cannot be read
    attribute += ["task.lead=direct", "task.num_resamples=20", "task.batch_size=4"]
    attribute += ["task.num_reasoned=7", "task.num_chosen=2", "task.num_generations=2"]
    two, one = run_in_ranks(runner, *attribute), runner(*attribute)
    tables = ("attribution", "distributions", "swap", "faithfulness")
    files = [*(f"{name}.parquet" for name in tables), "attribution.json"]
    files += ["chosen.jsonl", "completions.jsonl"]
    assert_same_files(two, one, [f"train/{name}" for name in files])


def test_two_ranks_fill_one_cache(runner) -> None:
    def features(folder: Path) -> dict[str, torch.Tensor]:
        return {
            f"{shard.parent.name} {key}": value
            for shard in folder.rglob("*.safetensors")
            for key, value in load_file(shard).items()
        }

    cache = ("task=cache", "task.splits=[train]", "task.batch_size=5")
    found = []
    for number, run in enumerate((partial(run_in_ranks, runner), runner)):
        folder = runner.root.parent / f"cache_{number}"
        run(*cache, f"feature_cache.folder={folder}")
        found.append(features(folder))
    assert len(found[0]) == 24  # picture and sound of twelve clips
    assert_same(*found)


def test_a_task_of_one_process_says_so(runner, capsys) -> None:
    runner.build("task=preview", "task.split=train", TWO)
    told = "task=preview runs in one process: trainer.devices=2 changes nothing here"
    assert told in capsys.readouterr().out
