"""A time limit for calls of reward terms: one that is late is interrupted, or ends the process.

A second process keeps the time (see ``watcher``), since no thread of this one can run while C code
holds Python's lock. It sends a signal to this process, whose handler raises where the call hangs:
in Python code, in a sleep, in a read, in a regular expression. Python handles signals on the main
thread of a process only, so a call on another thread has no limit.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import math
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from omni_rlvr.rewards.base import RewardTimeout, exit_as_error
from omni_rlvr.rewards.watchdog.watcher import GRACE_S, INTERRUPT, SEPARATOR, Call
from omni_rlvr.stopping import kept_from_children
from omni_rlvr.types import UserError

DEFAULT_S = 60.0
"""Of ``reward.timeout_s``."""
_EXIT_S = 5.0
"""How long threads of an interrupted call may keep the process from its end."""
_MESSAGE_SIZE = 4000
Result = TypeVar("Result")


class _Interrupt(BaseException):
    """Raised where a call hangs; no ``except Exception`` of a term catches it."""


@dataclass
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

    @cached_property
    def report(self) -> bytes:
        """What the watcher says, and where, if the call cannot be interrupted."""
        message = str(self.late("could not be interrupted"))[:_MESSAGE_SIZE]
        return SEPARATOR.join([*_places, message]).encode(errors="backslashreplace")


@dataclass
class _Watched:
    """What this process knows of its calls, and of the process that watches them."""

    owner: int
    """The process that started the watcher; a fork starts its own."""
    watcher: subprocess.Popen[bytes]
    call: Call
    handler_before: Any = None
    under_way: list[tuple[float, bytes]] = field(default_factory=list)
    """Seconds and reports of calls, from the outermost to the innermost."""
    num_calls: int = 0
    late: RewardTimeout | None = None
    """What was said of a coroutine that was cancelled, and may have caught that."""
    threads_before: Sequence[threading.Thread] = ()
    """Those that ran before the calls under way."""
    threads_left: set[threading.Thread] = field(default_factory=set)
    """Those that interrupted calls started."""
    is_leaving: bool = False

    def show(self) -> None:
        """Show the innermost call to the watcher, as a new one."""
        self.call.number = 0
        if self.under_way:
            self.call.limit_s, self.call.text = self.under_way[-1]
            self.num_calls += 1
            self.call.number = self.num_calls

    def leave(self, depth: int) -> bool:
        """Leave a call, if it was not left before, and return whether it was interrupted."""
        number, self.call.number = self.call.number, 0
        del self.under_way[depth:]
        is_late = self.call.interrupted == number != 0
        if is_late:
            new = {*threading.enumerate()}.difference(self.threads_before)
            self.threads_left |= {thread for thread in new if not thread.daemon}
        self.show()
        return is_late


_watched: _Watched | None = None
_places = ("", "")
"""Where the watcher writes down what hangs: the run's folder, and a file; empty where not."""


def checked_limit(timeout_s: Any) -> float | None:
    """Read the option ``reward.timeout_s``.

    Raises:
        UserError: it is not a number of seconds.
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
    """Have the calls that follow watched; without this, ``within`` has no effect.

    A watcher is started once a process, and again where it is gone.
    """
    global _watched
    if threading.current_thread() is not threading.main_thread():
        return
    if _watched is not None and _watched.owner != os.getpid():  # a fork's copy
        _watched.watcher.returncode = 0  # not our child to wait for
        _watched = None
    if _watched is None or _watched.watcher.poll() is not None:
        _watched = _start()
    if not _watched.under_way:
        _watched.threads_before, _watched.late = threading.enumerate(), None
    handler = signal.getsignal(INTERRUPT)
    if handler is not _handle:
        _watched.handler_before = handler
        signal.signal(INTERRUPT, _handle)


def within(
    limited: Limited, function: Callable[[], Result], limit_s: float | None = None
) -> Result:
    """Call a function that must return in time.

    Args:
        limited: its limit, and how messages name it.
        function: what is called; what it raises in time is raised as it is.
        limit_s: another limit than the one that messages name.

    Raises:
        RewardTimeout: it was late and was interrupted, whatever it did about that.
    """
    watched = _watched
    if watched is None or threading.current_thread() is not threading.main_thread():
        return function()
    depth, is_late = len(watched.under_way), False
    try:
        watched.under_way.append((limited.limit_s if limit_s is None else limit_s, limited.report))
        watched.show()
        try:
            result = function()
        finally:
            is_late = watched.leave(depth)
    except _Interrupt as error:
        watched.leave(depth)
        if depth == 0 and watched.late is not None:
            raise watched.late from error
        where = traceback.extract_tb(error.__traceback__)[1]  # the first is that of this function
        raise limited.late(f"was interrupted ({where.filename}:{where.lineno})") from error
    except Exception as error:
        if is_late:
            raise limited.late("was interrupted") from error
        raise
    if is_late:
        raise limited.late("was interrupted")
    return result


async def awaited_within(
    limited: Limited, call: Callable[[], Coroutine[Any, Any, Result]]
) -> Result:
    """Await a coroutine that must return in time, and must not block the event loop for longer.

    Args:
        limited: its limit, and how messages name it.
        call: makes the coroutine.

    Raises:
        RewardTimeout: it was late and was cancelled or interrupted.
    """

    async def stepped() -> Result:
        return await _in_steps(limited, call())

    task = asyncio.create_task(stepped())
    if (await asyncio.wait([task], timeout=limited.limit_s))[0]:
        return task.result()
    task.cancel()
    late = limited.late("was cancelled")
    if _watched is not None and _watched.under_way:
        _watched.under_way[0], _watched.late = (GRACE_S, limited.report), late
    raise late


@types.coroutine
def _in_steps(
    limited: Limited, coroutine: Coroutine[Any, Any, Result]
) -> Generator[Any, Any, Result]:
    """Await a coroutine, each of its steps within the limit."""
    step: Callable[[], Any] = partial(coroutine.send, None)
    while True:
        try:
            with exit_as_error():  # here: asyncio lets SystemExit out of a task, past who awaits it
                waits_for = within(limited, step)
        except StopIteration as end:
            return end.value
        try:
            step = partial(coroutine.send, (yield waits_for))
        except BaseException as error:
            step = partial(coroutine.throw, error)


@contextlib.contextmanager
def reported_in(*, run_dir: Path | None = None, outcome_file: Path | None = None) -> Iterator[None]:
    """Say where it is written down if a call hangs and the process has to be ended.

    Args:
        run_dir: the folder whose run.json says how the run ended.
        outcome_file: a file for the process that launched this one, which does the rest.
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
    watched = _watched
    if watched is None or watched.owner != os.getpid():
        return
    if any(thread.is_alive() for thread in watched.threads_left):
        sys.stdout.flush()
        watched.is_leaving = True
        watched.under_way = [(_EXIT_S, b"")]
        watched.show()


def _handle(number: int, frame: types.FrameType | None) -> None:
    """Take the watcher's signal."""
    watched = _watched
    assert watched is not None
    call = watched.call
    if watched.owner == os.getpid() and call.number != 0 and call.interrupted == call.number:
        if watched.is_leaving or call.ended == call.number:
            os._exit(1)
        raise _Interrupt
    if callable(watched.handler_before):
        watched.handler_before(number, frame)


def _start() -> _Watched:
    """Start a watcher, and share memory with it."""
    with contextlib.ExitStack() as stack:
        if sys.platform == "linux":
            file = stack.enter_context(os.fdopen(os.memfd_create("omni-rlvr"), "r+b"))
        else:
            file = stack.enter_context(tempfile.TemporaryFile())
        file.write(bytes(ctypes.sizeof(Call)))  # all of it, so that a full disk is an error here
        file.flush()
        call = Call.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(Call)))
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        arguments = [str(os.getpid()), str(file.fileno())]
        with kept_from_children():
            watcher = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-S",
                    "-m",
                    "omni_rlvr.rewards.watchdog.watcher",
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[file.fileno()],
                env={**os.environ, "PYTHONPATH": path},
            )
    return _Watched(os.getpid(), watcher, call)


@atexit.register
def _stop() -> None:
    """End the watcher; it would end by itself a moment after this process."""
    if _watched is not None and _watched.owner == os.getpid():
        _watched.watcher.kill()
        _watched.watcher.wait()
