"""The process that watches calls of reward terms: ``python -m omni_rlvr.rewards.watchdog.watcher``.

It needs nothing of the process that it watches, not even Python's lock, which a C library may hold
for ever. It reads from shared memory what is under way. A call that is late is interrupted by a
signal; where that does not help, this process says in run.json and on the terminal what hangs, and
ends the watched process with all that it started. It ends with the watched process.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from omni_rlvr.folders import write_file
from omni_rlvr.record import close_record

INTERRUPT = signal.SIGURG
"""The signal that interrupts a call. Nobody uses it, and a process without a handler ignores it."""
GRACE_S = 5.0
"""From the first interrupt to the end of the process: an interrupted call may close what it opened,
and one that catches the first interrupt gets others."""
_AGAIN_S = 1.0
_TICK_S = 0.1
_LONGEST_TICK_S = 1.0
"""More than this counts as this: where both processes were stopped (Ctrl-Z), no call is late."""
_DYING_S = 1.0
SEPARATOR = "\x1f"
"""Of the texts of a call."""
_TEXT_SIZE = 1 << 16


class Call(ctypes.Structure):
    """The call under way, in memory that both processes see; aligned fields are written whole."""

    _fields_ = (
        ("number", ctypes.c_uint64),  # 0: nothing is under way
        ("limit_s", ctypes.c_double),
        ("interrupted", ctypes.c_uint64),  # the number of the call that was interrupted last
        ("ended", ctypes.c_uint64),  # that of the call that ends the process
        ("text", ctypes.c_char * _TEXT_SIZE),  # a folder with a run.json, a file, and a message
    )
    number: int
    limit_s: float
    interrupted: int
    ended: int
    text: bytes


def main(watched: int, descriptor: int) -> None:
    """Watch the process that started this one until it ends.

    Args:
        watched: its number.
        descriptor: an open file, the memory that it shares.
    """
    call = Call.from_buffer(mmap.mmap(descriptor, ctypes.sizeof(Call)))
    number, waited_s, next_s = 0, 0.0, 0.0
    before = time.monotonic()
    while os.getppid() == watched:
        time.sleep(_TICK_S)
        now = time.monotonic()
        tick_s, before = min(now - before, _LONGEST_TICK_S), now
        if number == 0 or call.number != number:
            number, waited_s, next_s = call.number, 0.0, call.limit_s
            continue
        waited_s += tick_s
        if waited_s > call.limit_s + GRACE_S:
            _end(call, watched)
            return
        if waited_s >= next_s:
            call.interrupted = number
            _send(watched, INTERRUPT)
            next_s = waited_s + _AGAIN_S


def _end(call: Call, watched: int) -> None:
    """Say what hangs, and end the watched process and what it started."""
    started = _started_by(watched)
    try:
        _report(call.text)
    finally:
        call.interrupted = call.ended = call.number
        _send(watched, INTERRUPT)  # its handler leaves with exit code 1
        until = time.monotonic() + _DYING_S
        while os.getppid() == watched and time.monotonic() < until:
            time.sleep(_TICK_S / 10)
        for process in ([watched] if os.getppid() == watched else []) + started:
            _send(process, signal.SIGKILL)


def _send(process: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended
        os.kill(process, number)


def _report(text: bytes) -> None:
    """Write down what hangs: for the process that launched this rank, or in run.json and here."""
    run_dir, outcome_file, message = text.decode().split(SEPARATOR, 2)
    if outcome_file:
        write_file(Path(outcome_file), message.encode())
        return
    try:
        if run_dir:
            close_record(Path(run_dir), "failed", f"RewardTimeout: {message}")
    finally:
        cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # which a progress bar hides
        print(f"{cursor}\nerror: {' '.join(message.split())}", file=sys.stderr, flush=True)


def _started_by(process: int) -> list[int]:
    """List everything that a process started, and what that started, but for this process.

    What has left for a session of its own was meant to outlive it, as loggers' services are.
    """
    parents = _parents()
    found = [process]
    for known in found:
        found += [p for p, parent in parents.items() if parent == known and p != os.getpid()]
    return [p for p in found[1:] if _session(p) == _session(process)]


def _parents() -> dict[int, int]:
    """Map every process to its parent."""
    if not Path("/proc/self/stat").exists():
        shown = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        ).stdout
        return {int(line.split()[0]): int(line.split()[1]) for line in shown.splitlines()}
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # behind the name, which may hold anything: the state and the parent
            parents[int(folder.name)] = int(
                (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            )
    return parents


def _session(process: int) -> int | None:
    try:
        return os.getsid(process)
    except OSError:  # it has ended meanwhile
        return None


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
