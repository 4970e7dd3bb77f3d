"""The process that watches calls of reward terms: ``python -m omni_rlvr.rewards.watchdog.watcher``.

It does not depend on the watched process, whose GIL a C library may hold for ever. It reads the
call under way from a file in memory. A late call is interrupted by a signal; if that does not help,
this process reports in run.json and on the terminal what hangs, and kills the watched process with
its children. It ends with the watched process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import psutil

from omni_rlvr.record import close_record, find_record, write_json

INTERRUPT = signal.SIGURG
"""The signal that interrupts a call; it has no other use, and a process without a handler ignores
it."""
GRACE_S = 5.0
"""Seconds from the first interrupt to the kill: an interrupted call may close what it opened, and
one that catches the first interrupt gets others."""
_AGAIN_S = 1.0
_TICK_S = 0.1
_LONGEST_TICK_S = 1.0
"""A longer tick counts as this long, so that no call is late because both processes were stopped
(Ctrl-Z)."""
_TURN_S = 0.5
"""Seconds that a hanging rank waits per rank before it, so that only one of them reports."""
_LARGEST = 1 << 20


def main(watched: int, descriptor: int) -> None:
    """Watch the process that started this one until it ends.

    Args:
        watched: its process id.
        descriptor: an open file, whose first line is the call under way, or empty.
    """
    call, waited_s, next_s = b"", 0.0, 0.0
    before = time.monotonic()
    while os.getppid() == watched:
        time.sleep(_TICK_S)
        now = time.monotonic()
        tick_s, before = min(now - before, _LONGEST_TICK_S), now
        line = os.pread(descriptor, _LARGEST, 0).partition(b"\n")[0]
        if not line or line != call:  # it may be half written; the next tick sees it whole
            call, waited_s, next_s = line, 0.0, 0.0
            continue
        _, limit_s, run_dir, outcome_file, message = json.loads(line)
        waited_s += tick_s
        if waited_s > limit_s + GRACE_S:
            _end(watched, run_dir, outcome_file, message)
            return
        if waited_s >= max(limit_s, next_s):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(watched, INTERRUPT)
            next_s = waited_s + _AGAIN_S


def _end(watched: int, run_dir: str, outcome_file: str, message: str) -> None:
    """Report what hangs, and kill the watched process and its children.

    Children in a session of their own, such as the services of loggers, are spared: they are meant
    to outlive the process.
    """
    try:
        process, session = psutil.Process(watched), os.getsid(watched)
        started = [one for one in process.children(recursive=True) if one.pid != os.getpid()]
    except (psutil.NoSuchProcess, ProcessLookupError):
        return  # it has just ended
    try:
        _report(f"RewardTimeout: {message}", run_dir, outcome_file)
    finally:
        for one in (process, *started):
            with contextlib.suppress(psutil.Error, OSError):  # it has ended
                if os.getsid(one.pid) == session:
                    one.kill()


def _report(error: str, run_dir: str, outcome_file: str) -> None:
    """Write down what hangs: in elastic's error file of this rank, or in run.json and here."""
    if outcome_file:
        said = {"message": error, "timestamp": int(time.time()), "kind": "user"}
        write_json(Path(outcome_file), said)
        return
    if run_dir:
        rank = int(os.environ.get("LOCAL_RANK", "0"))  # see ranks.rendezvous
        time.sleep(min(rank * _TURN_S, GRACE_S))
        if (find_record(Path(run_dir)) or {}).get("status") == "failed":
            return  # all ranks hang, and another one has reported it
    try:
        if run_dir:
            close_record(Path(run_dir), "failed", error)
    finally:
        cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # show it: a progress bar hides it
        line = " ".join(error.removeprefix("RewardTimeout: ").split())
        print(f"{cursor}\nerror: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
