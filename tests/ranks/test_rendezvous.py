"""Processes that were started together: how they know it, what they agree on, who is blamed."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from every_case import every_case
from forks import forked
from torch import distributed

from omni_rlvr.ranks import failure, rendezvous
from omni_rlvr.ranks.environment import Started, of_environment
from omni_rlvr.record import write_json
from omni_rlvr.types import Interrupted, UserError

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "1",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08],login",
    "SLURM_JOB_ID": "4123456",
}
POD = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}


@every_case(
    ("env", "how"),
    [
        ({}, None),
        (TORCHRUN, Started(3, 4, 1, "a", 29500, "torchrun")),
        (SLURM, Started(3, 4, 1, "gpu07", 18456, "srun")),  # 15000 + 3456, the job's last digits
        (SLURM | {"MASTER_PORT": "5"}, Started(3, 4, 1, "gpu07", 5, "srun")),
        (SLURM | {"SLURM_STEP_NODELIST": "one"}, Started(3, 4, 1, "one", 18456, "srun")),
        (
            SLURM | {"SLURM_STEP_NODELIST": "rack[0-1]node[07,9]-ib,x", "SLURM_STEP_ID": "2"},
            Started(3, 4, 1, "rack0node07-ib", 18530, "srun"),  # 37 for each step before it
        ),
        (SLURM | TORCHRUN, Started(3, 4, 1, "a", 29500, "torchrun")),  # torchrun below srun
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # the script of sbatch itself
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        (POD, Started(1, 2, 0, "job-master-0", 23456, "RANK and WORLD_SIZE")),
        (POD | {"WORLD_SIZE": "1", "RANK": "0"}, None),
    ],
)
def test_the_environment_says_how_a_process_was_started(env: dict, how: Started | None) -> None:
    assert of_environment(env) == how


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"RANK": "1", "WORLD_SIZE": "2"}, "MASTER_ADDR, MASTER_PORT is not set"),
        (POD | {"MASTER_PORT": "http"}, "MASTER_PORT='http': give a whole number"),
        (POD | {"RANK": "2"}, "RANK=2 and WORLD_SIZE=2: ranks are numbered from 0 to 1"),
    ],
)
def test_an_environment_that_is_half_set_is_refused(env: dict, why: str) -> None:
    with pytest.raises(UserError, match=why):
        of_environment(env)


def test_versions_must_be_equal() -> None:
    first = {"host": "a", "versions": {"torch": "2.14.1", "Python": "3.11.7"}}
    other = {"host": "b", "versions": {"torch": "2.14.1", "Python": "3.12.1"}}
    rendezvous.check_versions([first, first])
    with pytest.raises(UserError, match=r"Python is 3\.11\.7 on a \(rank 0\) and 3\.12\.1 on b"):
        rendezvous.check_versions([first, first, other])


def test_a_process_that_was_started_alone_answers_for_itself(tmp_path: Path) -> None:
    assert rendezvous.is_first()
    assert rendezvous.started() is None
    assert rendezvous.broadcast(lambda: "x") == "x"
    assert rendezvous.all_gather("y") == ["y"]
    rendezvous.check_seen(tmp_path, "paths.output_root")
    rendezvous.leave()
    error = ValueError("clip 17 is broken")
    assert failure.cause_of(error) == ("ValueError: clip 17 is broken", True)
    with pytest.raises(ValueError), failure.reported_once():
        raise error


def in_processes(
    folder: Path, part: Callable[[Any], object], num: int = 2, *, connect: bool = True
) -> list[object]:
    """Does a part in processes that are connected; what each returned, or how it ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def do(how: Started) -> None:
        if connect:
            rendezvous.connect(how)
        said = part(how.rank if connect else how)
        (folder / f"{how.rank}.json").write_text(json.dumps(said))
        rendezvous.leave()

    started = [Started(rank, num, rank, "127.0.0.1", port, "a test") for rank in range(num)]
    codes = forked([partial(do, how) for how in started])
    return [
        code or json.loads((folder / f"{rank}.json").read_text()) for rank, code in enumerate(codes)
    ]


def refused(check: Callable[[], object]) -> str:
    """The error of a check."""
    try:
        check()
    except UserError as error:
        return str(error)
    return ""


def test_ranks_agree_on_what_rank_0_found(tmp_path: Path) -> None:
    def part(rank: int) -> list[object]:
        folder = rendezvous.broadcast(lambda: f"made by {rank}")
        return [folder, rendezvous.all_gather(str(rank)), rendezvous.is_first()]

    (first, second) = in_processes(tmp_path, part)
    assert first == ["made by 0", ["0", "1"], True]
    assert second == ["made by 0", ["0", "1"], False]


def test_a_rank_that_is_started_again_alone_is_refused(tmp_path: Path) -> None:
    """As a pod is that an operator restarts while the others go on."""

    def part(how: Started) -> str:
        rendezvous.connect(how)
        return refused(lambda: rendezvous.connect(how))

    first, second = in_processes(tmp_path, part, connect=False)
    assert str(first).startswith("rank 0 was started again while the other ranks of its run go on")
    assert str(second).startswith("rank 1 was started again")


def test_ranks_make_a_process_group(tmp_path: Path) -> None:
    def part(rank: int) -> list[int | None]:
        rendezvous.init_process_group()
        seen: list[int | None] = [None, None]
        distributed.all_gather_object(seen, rank)
        return seen

    assert in_processes(tmp_path, part) == [[0, 1], [0, 1]]


def test_machines_of_unequal_versions_do_not_begin(tmp_path: Path, monkeypatch) -> None:
    def part(how: Started) -> str:
        monkeypatch.setattr(platform, "python_version", lambda: f"3.11.{how.rank}")
        try:
            with failure.reported_once():
                rendezvous.connect(how)
        except (UserError, SystemExit) as end:
            return f"{type(end).__name__} {end}"
        return ""

    ends = sorted(map(str, in_processes(tmp_path, part, connect=False)))
    assert ends[0] == "SystemExit 1"  # one of them tells
    assert ends[1].startswith("UserError the machines differ: Python is 3.11.0 on ")


def test_options_must_be_equal_on_all_ranks(tmp_path: Path) -> None:
    def part(rank: int) -> str:
        return refused(lambda: rendezvous.check_same({"seed": 0, "stage.beta": 0.1 * rank}))

    for text in in_processes(tmp_path, part):
        assert "stage.beta is 0.0 on rank 0 and 0.1 on rank 1" in str(text)


def test_a_folder_that_a_rank_does_not_see_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(rendezvous, "SEEN_S", 0.2)

    def part(rank: int) -> list[str]:
        own = tmp_path / f"disk{rank}"  # the same path on each machine, another disk
        for folder in (own, tmp_path / "shared"):
            folder.mkdir(exist_ok=True)
        return [
            refused(lambda: rendezvous.check_seen(own, "paths.output_root")),
            refused(lambda: rendezvous.check_seen(tmp_path / "shared", "paths.output_root")),
        ]

    for texts in in_processes(tmp_path, part):
        assert isinstance(texts, list)
        assert texts[0].startswith(f"paths.output_root: {tmp_path}/disk")
        assert texts[0].endswith("give a folder on a disk that all machines share")
        assert texts[1] == ""
    assert not list(tmp_path.rglob(".rendezvous"))


def test_the_first_error_is_the_cause_on_every_rank(tmp_path: Path) -> None:
    def part(rank: int) -> list[object]:
        if rank == 0:
            time.sleep(0.5)
            lost = RuntimeError("[x/gloo/transport/tcp/pair.cc:5] Connection closed by peer")
            return list(failure.cause_of(lost))
        return list(failure.cause_of(ValueError("clip 17 is broken")))

    wanted = "ValueError: clip 17 is broken"
    assert in_processes(tmp_path, part) == [[wanted, False], [wanted, True]]


def test_an_error_that_another_rank_tells_ends_a_command_quietly(tmp_path: Path) -> None:
    def part(rank: int) -> str:
        time.sleep(0.5 * rank)
        try:
            with failure.reported_once():
                raise ValueError(f"of rank {rank}")
        except (ValueError, SystemExit) as end:
            return repr(end)
        return ""

    assert in_processes(tmp_path, part) == ["ValueError('of rank 0')", "SystemExit(1)"]


def test_a_stop_is_no_error(tmp_path: Path) -> None:
    def part(rank: int) -> str:
        try:
            with failure.reported_once():
                raise Interrupted("stopped at step 3")
        except Interrupted as stop:
            return str(stop)

    assert in_processes(tmp_path, part) == ["stopped at step 3"] * 2


def test_a_rank_that_waits_for_one_that_failed_ends_without_a_word(tmp_path: Path) -> None:
    def part(rank: int) -> str:
        try:
            with failure.reported_once():
                if rank == 1:
                    raise ValueError("clip 17 is broken")
                rendezvous.all_gather("what rank 1 never answers")
        except (ValueError, SystemExit) as end:
            return repr(end)
        return ""

    assert in_processes(tmp_path, part) == ["SystemExit(1)", "ValueError('clip 17 is broken')"]


@pytest.mark.slow
def test_a_rank_that_is_killed_in_a_collective_is_named_by_one_of_the_others(tmp_path) -> None:
    def part(rank: int) -> object:
        rendezvous.init_process_group()
        if rank == 1:
            time.sleep(0.3)  # the others wait in the collective
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            distributed.all_gather_object([None] * 3, rank)
        except RuntimeError as error:
            return list(failure.cause_of(error))
        return None

    first, killed, third = in_processes(tmp_path, part, num=3)
    assert killed == -signal.SIGKILL
    assert isinstance(first, list)
    assert isinstance(third, list)
    assert first[0] == third[0]
    assert f"rank 1 ({platform.node()})" in first[0]
    assert {first[1], third[1]} == {True, False}


@pytest.mark.slow
def test_an_error_that_stands_in_run_json_is_not_told_again(tmp_path: Path) -> None:
    """The process that keeps a reward's time writes there, and ends a rank that cannot speak."""

    def part(rank: int) -> object:
        rendezvous.init_process_group()
        if rank == 1:
            record = {"config": {}, "status": "failed", "error": "RewardTimeout: mine"}
            write_json(tmp_path / "run.json", record)
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            distributed.barrier()
        except RuntimeError as error:
            return list(failure.cause_of(error, tmp_path))
        return None

    assert in_processes(tmp_path, part) == [["RewardTimeout: mine", False], -signal.SIGKILL]


def test_a_port_that_is_taken_or_that_nobody_opens_is_named(monkeypatch) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"^rank 0 cannot open a port at localhost:{port}, whi"
        ):
            rendezvous.connect(Started(0, 2, 0, "localhost", port, "srun"))
    monkeypatch.setattr(rendezvous, "START_S", 0.0)
    monkeypatch.setattr(rendezvous, "TRY_S", 0.1)
    with pytest.raises(
        UserError, match=r"^rank 1 cannot reach rank 0 at localhost:\d+, which srun"
    ):
        rendezvous.connect(Started(1, 2, 0, "localhost", port, "srun"))


def test_where_rank_0_was_killed_with_its_store_rank_1_names_it(tmp_path: Path) -> None:
    def part(rank: int) -> object:
        rendezvous.init_process_group()
        if rank == 0:
            time.sleep(0.3)  # the other one waits in the collective
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            distributed.barrier()
        except RuntimeError as error:
            return list(failure.cause_of(error))
        return None

    killed, said = in_processes(tmp_path, part)
    assert killed == -signal.SIGKILL
    assert isinstance(said, list)
    assert said[0].startswith("UserError: rank 0 on 127.0.0.1 has ended and could not say why")
    assert said[1]
