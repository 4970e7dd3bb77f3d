"""Sweeps whose runs are jobs in other processes: they finish, fail, report, are skipped and go on.

Slurm's jobs cannot run here: what sbatch would be given is all that is checked.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors.torch import load_file
from sweep_packages import SWEEP_PACKAGES, needs_plugins

from omni_rlvr.pointers import CHECKPOINT, CHECKPOINTS
from omni_rlvr.record import read_json, read_jsonl, write_json

pytestmark = [needs_plugins, pytest.mark.timeout(900)]  # each a dozen processes that import torch

SWEEP = (
    "-m", "name=s", "stage=sft", "stage.max_steps=3", "stage.batch_size=4", "stage.save_steps=1",
    "stage.save_total_limit=3", "task.evaluate_after.splits=[test]",
    "task.evaluate_after.max_completion_length=8", "task.evaluate_after.num_resamples=50",
    "feature_cache.enabled=true",
)  # fmt: skip
LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra/launcher=submitit_local", "trainer.devices=2"),  # processes of a job
    "ray": (
        "hydra/launcher=ray", "hydra.launcher.ray.init.num_cpus=2",
        "+hydra.launcher.ray.init._node_ip_address=127.0.0.1",
    ),
}  # fmt: skip


def stopped_after_two_steps(run: Path) -> bytes:
    """Leave a finished run as a kill would have left it; returns its weights."""
    weights = (run / CHECKPOINT / "model.safetensors").read_bytes()
    (run / CHECKPOINT).unlink()
    (run / CHECKPOINT).symlink_to(f"{CHECKPOINTS}/{sorted((run / CHECKPOINTS).iterdir())[1].name}")
    write_json(run / "run.json", read_json(run / "run.json") | {"status": "running"})
    return weights


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_of_jobs_finishes_reports_and_goes_on(runner, launcher: str) -> None:
    runner.packages.append(SWEEP_PACKAGES)
    words = (*SWEEP, f"feature_cache.folder={runner.root}/features", *LAUNCHERS[launcher])
    done = runner.command(*words, "optimizer.lr=0.001,0.002,-1", timeout=600)
    assert done.returncode == 1, done.stderr
    assert "sweep: 2 finished, 0 skipped, 1 failed" in done.stdout
    (failed,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert failed.startswith("failed: optimizer.lr=-1: optimizer.lr=-1 is out of range")
    home = runner.root / "s" / "sweep"
    assert len((home / "sweep_runs.csv").read_text().splitlines()) == 3
    first, second = (home / row["run"] for row in sorted(
        (row for row in read_jsonl(home / "sweep.jsonl") if row["status"] == "finished"),
        key=lambda row: row["job"],
    ))  # fmt: skip
    command = read_json(first / "run.json")["command"]
    assert command[:2] == ["omni-rlvr", "-m"]  # not what a worker's process was started with
    for modality in ("video", "audio"):  # three steps of four clips are all
        (folder,) = (runner.root / "features").glob(f"{modality}_*")
        shards = [load_file(path) for path in folder.glob("*.safetensors")]
        assert len(set().union(*shards)) == 12

    before = (first / "run.json").read_bytes()
    weights = stopped_after_two_steps(second)
    done = runner.command(*words, "optimizer.lr=0.001,0.002", timeout=600)
    assert done.returncode == 0, done.stderr
    assert "sweep: 1 finished, 1 skipped, 0 failed" in done.stdout
    assert (first / "run.json").read_bytes() == before
    assert [row["step"] for row in read_jsonl(second / "metrics.jsonl")] == [1, 2, 3]
    assert (second / CHECKPOINT / "model.safetensors").read_bytes() == weights
    assert read_json(second / "run.json")["status"] == "finished"


def test_slurm_is_asked_for_what_the_command_line_says(
    runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    for tool in ("sbatch", "srun"):
        (tmp_path / tool).write_text(
            f'#!/bin/sh\ncp "$1" {asked}; echo "no such partition" >&2; exit 1\n'
        )
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    runner.packages.append(SWEEP_PACKAGES)
    done = runner.command(
        *SWEEP, "seed=0,1", "trainer.devices=8", "hydra/launcher=submitit_slurm",
        "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=8",
        "hydra.launcher.cpus_per_task=64", "hydra.launcher.timeout_min=600",
        "+hydra.launcher.additional_parameters.mail-type=END", timeout=280,
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: the sweep ended early: FailedJobError: no such partition" in done.stderr
    lines = asked.read_text().splitlines()
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert options >= {
        "--partition=gpu", "--gpus-per-node=8", "--cpus-per-task=64", "--time=600",
        "--nodes=1", "--ntasks-per-node=1",  # the job starts its own eight processes
        "--array=0-1%2", "--signal=USR2@120", "--mail-type=END",
    }  # fmt: skip
