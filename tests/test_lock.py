"""Locks of folders: who is kept out, what is said, and which locks are taken over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni_rlvr import lock
from omni_rlvr.lock import LAUNCHER, OWNER, FolderInUse, FolderLock, check_free

HOLDER = """
import os, sys, time
from pathlib import Path
from omni_rlvr.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), "wait")
if os.fork():
    print("held", flush=True)
time.sleep(60)
"""
"""Takes a lock; its fork, as a data worker is, outlives it."""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A process that holds the folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other
        os.killpg(other.pid, signal.SIGKILL)


def test_a_lock_names_its_owner_and_a_dead_owners_is_taken_over(tmp_path: Path, holder) -> None:
    for refuse in (FolderLock, check_free):
        with pytest.raises(FolderInUse) as refused:
            refuse(tmp_path, "name this one otherwise")
        message = str(refused.value)
        assert message.startswith(f"{tmp_path} is in use by process {holder.pid} on ")
        assert " since 20" in message
        assert message.endswith("; name this one otherwise")
    holder.kill()  # and not waited for: a zombie works no more
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    check_free(tmp_path, "")
    with FolderLock(tmp_path, ""):
        assert json.loads((tmp_path / OWNER).read_text())["process"] == os.getpid()
    assert not (tmp_path / OWNER).exists()


def test_a_process_for_one_device_shares_the_lock_of_its_launcher(
    tmp_path: Path, holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LAUNCHER, str(holder.pid))
    FolderLock(tmp_path, "").release()
    assert json.loads((tmp_path / OWNER).read_text())["process"] == holder.pid


def test_a_process_takes_its_own_lock_twice(tmp_path: Path) -> None:
    with FolderLock(tmp_path, ""):
        with FolderLock(tmp_path, ""):
            pass
        assert (tmp_path / OWNER).exists()
    assert not (tmp_path / OWNER).exists()


def write_owner(folder: Path, **changes: object) -> None:
    """Leaves a lock as this process would, but for some fields."""
    with FolderLock(folder, ""):
        fields = json.loads((folder / OWNER).read_text())
    (folder / OWNER).write_text(json.dumps({**fields, **changes}))


def test_a_reused_process_number_is_not_the_owner(tmp_path: Path) -> None:
    write_owner(tmp_path, process=1)  # alive, but started at another time
    FolderLock(tmp_path, "").release()
    assert not (tmp_path / OWNER).exists()


def test_of_another_machine_nothing_is_known_and_what_to_do_is_said(tmp_path: Path) -> None:
    write_owner(tmp_path, host="node-7", process=2**22 + 1)
    file = tmp_path / OWNER
    with pytest.raises(FolderInUse, match=rf"on node-7 .*; wait; .* was killed, delete {file}"):
        FolderLock(tmp_path, "wait")
    file.unlink()  # as it says
    FolderLock(tmp_path, "wait").release()


@pytest.mark.parametrize("text", ["", '{"process": 1', "[]", '{"process": 1}', "\0\0"])
def test_a_lock_that_its_writer_died_over_is_taken_over(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "SETTLE_S", 0.1)
    (tmp_path / OWNER).write_text(text)
    FolderLock(tmp_path, "").release()
    assert not list(tmp_path.iterdir())


def test_of_two_that_find_a_dead_owner_one_gets_the_lock(tmp_path: Path) -> None:
    write_owner(tmp_path, process=2**22 + 1)
    dead = lock.owner_of(tmp_path / OWNER)
    other = FolderLock(tmp_path, "")  # was faster
    lock.remove_dead(tmp_path / OWNER, dead)
    owner = lock.owner_of(tmp_path / OWNER)
    assert owner is not None
    assert owner.is_ours
    other.release()
