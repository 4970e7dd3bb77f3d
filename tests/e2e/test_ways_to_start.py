"""Two ranks, however they are started, make one run: one folder, and the same weights.

A process costs ten seconds, so each way is started once, for two steps of the smallest run.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from conftest import CLI, environment
from make_ranks import TWO

from omni_rlvr.record import read_json, read_jsonl

TORCHRUN = Path(sys.executable).with_name("torchrun")
SMALL = ("stage=sft", "stage.max_steps=2", "stage.batch_size=2", "logger=[]")
NODES = "trainer.num_nodes=2"


@pytest.fixture(scope="module")
def weights(make_runner) -> bytes:
    """The weights after a run whose ranks the command itself starts.

    The others are compared with it bit by bit, so it has processes and a cache of features of its
    own too: in a process that has run other tests, memory lies elsewhere, and sums may be rounded
    otherwise.
    """
    return weights_of(make_runner(), "omni-rlvr")


def weights_of(runner, way: str) -> bytes:
    """Starts two ranks in one of the ways; the weights of the one run that they make."""
    own = [*runner.overrides, f"paths.data_root={runner.root}/data", "name=way"]
    if way != "omni-rlvr":
        own.append("resume=latest")  # a job's first start has nothing to go on from, and no error
    ends = started(*commands_of(way, [*SMALL, *own]))
    assert [code for code, *_ in ends] == [0] * len(ends), ends
    (folder,) = [path for path in (runner.root / "way").iterdir() if path.name != "latest"]
    assert (runner.root / "way" / "latest").resolve() == folder
    assert read_json(folder / "run.json")["status"] == "finished"
    assert [path.name for path in folder.glob("*.log")] == ["omni-rlvr.log"]
    assert (folder / ".hydra" / "config.yaml").exists()
    assert not list(folder.glob(".rendezvous"))
    out = "".join(text for _, text, _ in ends)  # rank 0 alone prints
    assert out.count("checkpoint: ") == out.count("way: task=train stage=sft") == 1
    assert out.count("has no run yet; starting a new run") == (way != "omni-rlvr")
    assert out.count("next:") == 1
    return (folder / "checkpoint" / "model.safetensors").read_bytes()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def slurm(rank: int, port: int) -> dict[str, str]:
    """What srun sets for one of two tasks on two nodes."""
    return {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NODELIST": "localhost,elsewhere",
        "MASTER_PORT": str(port),
    }


def pod(rank: int, port: int) -> dict[str, str]:
    """What Kubeflow and PAI-DLC set for one of two pods."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }


def started(
    commands: Sequence[Sequence[str | Path]], variables: Sequence[Mapping[str, str]]
) -> list[tuple[int, str, str]]:
    """Starts commands together; the exit code, output and errors of each."""
    processes = [
        subprocess.Popen(
            command,
            env={**environment(), **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command, more in zip(commands, variables, strict=True)
    ]
    ends = [process.communicate(timeout=400) for process in processes]
    return [(p.returncode, *texts) for p, texts in zip(processes, ends, strict=True)]


def commands_of(way: str, own: list[str]) -> tuple[list, list]:
    """Commands that start two ranks, and the variables of each."""
    port = free_port()
    if way == "omni-rlvr":
        return [[CLI, *own, TWO]], [{}]
    if way == "torchrun":
        command = [TORCHRUN, "--standalone", "--nproc-per-node=2", "--no-python"]
        return [[*command, CLI, *own, TWO]], [{}]
    if way == "two torchruns":
        command = [TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d"]
        command += [f"--rdzv-endpoint=localhost:{port}", "--local-addr=localhost"]
        return [[*command, "-m", "omni_rlvr.cli", *own, NODES]] * 2, [{}, {}]
    variables = slurm if way == "srun" else pod
    return [[CLI, *own, NODES]] * 2, [variables(rank, port) for rank in (0, 1)]


@pytest.mark.parametrize("way", ["torchrun", "two torchruns", "srun", "PyTorchJob"])
def test_each_way_makes_one_run_of_the_same_weights(runner, weights: bytes, way: str) -> None:
    assert weights_of(runner, way) == weights


def test_pods_that_count_machines_start_the_ranks_of_each(runner) -> None:
    one = runner(*SMALL, "stage.batch_size=4", "name=one")
    own = [*SMALL, "stage.batch_size=4", *runner.overrides, "name=pods", TWO, NODES]
    port = free_port()
    ends = started([[CLI, *own]] * 2, [pod(rank, port) for rank in (0, 1)])
    assert [code for code, *_ in ends] == [0, 0], ends
    (folder,) = [path for path in (runner.root / "pods").iterdir() if path.name != "latest"]
    losses, wanted = (
        [row["loss"] for row in read_jsonl(run / "metrics.jsonl")] for run in (folder, one)
    )
    assert losses == pytest.approx(wanted, rel=1e-4)
