"""JSON lines: whatever stands in a completion comes back as it was written. Locks of folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from omni_rlvr.record import FolderLock, append_jsonl, keep_steps, read_jsonl
from omni_rlvr.types import UserError

ODD = "a\u2028b\u2029c\x85d\x0be\x1cf\r\n\ng"
"""Signs that ``str.splitlines`` takes for the end of a line."""


def test_lines_hold_what_was_written(tmp_path: Path) -> None:
    rows = [{"step": 1, "completion": ODD}, {"step": 2, "completion": "x"}]
    append_jsonl(tmp_path / "a.jsonl", rows)
    assert read_jsonl(tmp_path / "a.jsonl") == rows
    keep_steps(tmp_path / "a.jsonl", 1)
    assert read_jsonl(tmp_path / "a.jsonl") == rows[:1]
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_a_torn_last_line_goes(tmp_path: Path) -> None:
    append_jsonl(tmp_path / "a.jsonl", [{"step": 1}])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"step": 2, "compl')
    keep_steps(tmp_path / "a.jsonl", 5)
    assert read_jsonl(tmp_path / "a.jsonl") == [{"step": 1}]


HOLDER = """
import os, sys, time
from pathlib import Path
from omni_rlvr.record import FolderLock
lock = FolderLock(Path(sys.argv[1]), "wait")
if os.fork():
    print("held", flush=True)
time.sleep(60)
"""
"""Takes a lock; its fork, as a data worker is, outlives it."""


def test_a_lock_names_its_owner_and_a_dead_owners_is_taken_over(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(UserError) as refused:
                FolderLock(tmp_path, "name this one otherwise")
            message = str(refused.value)
            assert message.startswith(f"{tmp_path} is in use by process {other.pid} on ")
            assert " since 20" in message
            assert message.endswith("; name this one otherwise")
            other.kill()
            other.wait()
            FolderLock(tmp_path, "").release()
        finally:
            os.killpg(other.pid, signal.SIGKILL)
    assert (tmp_path / ".owner").read_text().startswith(f"process {os.getpid()} on ")
