"""A time limit for calls of reward terms: a late call is interrupted, or the process is killed.

A second process keeps the time (see ``watcher``), since no thread of this one can run while C code
holds the GIL. It sends a signal to this process, whose handler raises where the call hangs: in
Python code, in a sleep, in a read, in a regular expression. Python handles signals only on the main
thread of a process, so a call on another thread has no limit.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import faulthandler
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from omni_rlvr.rewards.base import RewardTimeout, exit_as_error
from omni_rlvr.rewards.watchdog.watcher import INTERRUPT
from omni_rlvr.stopping import kept_from_children
from omni_rlvr.types import UserError

DEFAULT_S = 60.0
"""Default of ``reward.timeout_s``."""
_EXIT_S = 5.0
"""Seconds that threads of an interrupted call may delay the end of the process."""
LOOP_S = 1.0
"""Seconds by which the limit of the event loop is longer than that of each coroutine."""
Result = TypeVar("Result")


class _Interrupt(BaseException):
    """Raised where a call hangs; no ``except Exception`` of a term catches it."""


@dataclass(frozen=True)
class Limited:
    """A call with a time limit."""

    limit_s: float
    describe: Callable[[str], str]
    """Puts what went wrong into a message that names the term, the example and the completion."""

    def late(self, how: str) -> RewardTimeout:
        """Make the error of a call that did not return in time."""
        return RewardTimeout(
            self.describe(
                f"took longer than reward.timeout_s={self.limit_s:g} s and {how}; if it needs more "
                "time, set reward.timeout_s=SECONDS, or null for no limit"
            )
        )


@dataclass
class _Call:
    """A call under way, on the main thread."""

    limited: Limited
    limit_s: float
    since: float = 0.0
    late: RewardTimeout | None = None
    """The error that ends the call, once it has exceeded its limit; the first one is kept."""


class _Watched:
    """The call under way in this process, and the process that watches it."""

    def __init__(self) -> None:
        """Start a watcher, and share a file in memory with it."""
        self.owner = os.getpid()  # a fork starts its own
        self.call: _Call | None = None
        self.numbers = count()
        self.handler_before: Any = None
        if sys.platform == "linux":  # in memory: a full disk does not matter
            self.shown = os.memfd_create("omni-rlvr")
        else:
            with tempfile.TemporaryFile() as file:
                self.shown = os.dup(file.fileno())
        watcher = "omni_rlvr.rewards.watchdog.watcher"
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        with kept_from_children():
            self.watcher = subprocess.Popen(
                [sys.executable, "-P", "-S", "-m", watcher, str(self.owner), str(self.shown)],
                stdin=subprocess.DEVNULL,
                pass_fds=[self.shown],
                env={**os.environ, "PYTHONPATH": path},
            )

    def show(self, call: _Call | None) -> None:
        """Show a call to the watcher as one that begins now."""
        self.call, line = call, ""
        if call is not None:
            call.since = time.monotonic()
            told = str(call.limited.late("could not be interrupted"))
            line = json.dumps([next(self.numbers), call.limit_s, *_places, told])
        os.pwrite(self.shown, f"{line}\n".encode(), 0)

    def handle(self, number: int, frame: types.FrameType | None) -> None:
        """Handle the watcher's signal, unless the call that it was meant for has ended."""
        global _was_late
        call = self.call
        if call is None or self.owner != os.getpid():
            if callable(self.handler_before):
                self.handler_before(number, frame)
        elif time.monotonic() - call.since >= call.limit_s:
            while frame and frame.f_back and frame.f_back.f_code.co_filename != __file__:
                frame = frame.f_back  # up to where the term was entered
            if frame and call.late is None:
                limited = _awaited.get() or call.limited
                where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                call.late = limited.late(f"was interrupted ({where})")
            _was_late = True
            raise _Interrupt


_watched: _Watched | None = None
_was_late = False
"""Whether a call was late, so that it may have left threads that hang."""
_cancelled: list[asyncio.Task[Any]] = []
"""Late coroutines. They are kept, because closing one that ignores its cancellation might hang."""
_places = ("", "")
"""Where the watcher reports a call that hangs: the run's folder and the outcome file; "" for none.
"""
_awaited: ContextVar[Limited | None] = ContextVar("awaited", default=None)
"""The call whose coroutine the event loop runs now, or a task that it started."""


def checked_limit(timeout_s: Any) -> float | None:
    """Read the option ``reward.timeout_s``.

    Raises:
        UserError: the value is not a number of seconds.
    """
    if timeout_s is None:
        return None
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not is_number or not 0 < timeout_s < math.inf:
        raise UserError(
            f"reward.timeout_s={timeout_s!r}: give seconds, greater than 0, or null for no limit"
        )
    return float(timeout_s)


def keep_watch() -> None:
    """Start watching the calls that follow; without this, ``within`` has no effect.

    The watcher is started once per process, and again if it has died.
    """
    global _watched
    if threading.current_thread() is not threading.main_thread():
        return
    if _watched is not None and _watched.owner != os.getpid():  # a fork's copy
        _watched.watcher.returncode = 0  # not our child to wait for
        _watched = None
    if _watched is None or _watched.watcher.poll() is not None:
        _watched = _Watched()
    handler = signal.getsignal(INTERRUPT)
    if handler != _watched.handle:
        _watched.handler_before = handler
        signal.signal(INTERRUPT, _watched.handle)


def within(limited: Limited, function: Callable[[], Result], more_s: float = 0.0) -> Result:
    """Call a function that must return in time.

    Args:
        limited: the limit of the call, and its error message.
        function: the function to call; an error that it raises in time is not changed.
        more_s: seconds added to the limit; messages name the limit without them.

    Raises:
        RewardTimeout: the call was late and was interrupted, even if it caught the interrupt.
    """
    watched = _watched
    if watched is None or threading.current_thread() is not threading.main_thread():
        return function()
    call, outer = _Call(limited, limited.limit_s + more_s), watched.call
    try:
        try:
            watched.show(call)
            result = function()
        finally:
            watched.show(outer)
    except (_Interrupt, Exception) as error:
        if call.late is None or call.late is error:
            raise
        watched.show(outer)  # the interrupt may have come before the line above
        raise call.late from error
    if call.late is not None:
        raise call.late
    return result


async def awaited_within(
    limited: Limited, call: Callable[[], Coroutine[Any, Any, Result]]
) -> Result:
    """Await a coroutine that must return in time.

    A coroutine that blocks the event loop, or hangs although it is cancelled, is ended only by a
    ``within`` around the event loop.

    Args:
        limited: the limit of the call, and its error message.
        call: makes the coroutine.

    Raises:
        RewardTimeout: the coroutine was late and was cancelled.
    """

    async def named() -> Result:
        _awaited.set(limited)
        with exit_as_error():  # inside the task: asyncio raises its SystemExit past the awaiter
            return await call()

    task = asyncio.create_task(named())
    if (await asyncio.wait([task], timeout=limited.limit_s))[0]:
        return task.result()
    task.cancel()
    _cancelled.append(task)
    late = limited.late("was cancelled")
    if _watched is not None and _watched.call is not None and _watched.call.late is None:
        _watched.call.late = late
    raise late


@contextlib.contextmanager
def reported_in(*, run_dir: Path | None = None, outcome_file: Path | None = None) -> Iterator[None]:
    """Set where it is reported if a call hangs and the process has to be killed.

    Args:
        run_dir: the folder whose run.json says how the run ended.
        outcome_file: a file for the launcher of this process, which then reports the error.
    """
    global _places
    before = _places
    _places = (str(run_dir or before[0]), str(outcome_file or before[1]))
    try:
        yield
    finally:
        _places = before


def end_in_time() -> None:
    """Make sure that this process, which has nothing left to do, ends.

    Python waits for threads before it ends, and an interrupted call may have left some that hang.
    """
    others = (t for t in threading.enumerate() if t is not threading.main_thread())
    may_hang = any(not task.done() for task in _cancelled) or any(not t.daemon for t in others)
    if _was_late and may_hang:
        sys.stdout.flush()
        null = os.open(os.devnull, os.O_WRONLY)
        # its timer is a C thread, which can end the process while another thread holds the GIL
        faulthandler.dump_traceback_later(_EXIT_S, exit=True, file=null)


@atexit.register
def _stop() -> None:
    """End the watcher; it would end by itself a moment after this process."""
    if _watched is not None and _watched.owner == os.getpid():
        _watched.watcher.kill()
        _watched.watcher.wait()
