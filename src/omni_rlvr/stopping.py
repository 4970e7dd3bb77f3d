"""How a process stops when it is asked to: by Ctrl-C, a scheduler, or a terminal that is closed.

The first request counts. It ends most work at once, by raising ``Stopped``; inside ``noted``
(training) it is only recorded, and the work continues to the next place where it can stop.
Schedulers repeat signals and send them to whole groups of processes, so later ones change nothing;
only a second Ctrl-C ends the process at once. Processes that this one starts for its own work
ignore these signals, and are ended by this one.

After Ctrl-C the exit code is 130, after any other request 143: the run was pre-empted, and
``resume`` continues it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from omni_rlvr.types import UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C, a scheduler, a terminal that closes, and what Slurm sends for --signal=USR1@60."""
AGAIN_S = 1.0
"""Seconds within which another Ctrl-C is the same one, sent to the process and to its group."""
_SOON_S = 0.05


class Stopped(KeyboardInterrupt):
    """The process was asked to stop, and may do so here."""


class _Requests:
    """The requests to stop that this process got, and how it handles them."""

    def __init__(self) -> None:
        self.listener = -1
        """The process that listens; a fork of it does not."""
        self.is_noted = self.is_alone = self.is_held = self.may_stop = False
        self.pass_on: Callable[[int], None] | None = None
        self.hook_before = sys.unraisablehook
        self.forget()

    def forget(self) -> None:
        """Forget every request."""
        self.first: int | None = None
        self.is_urgent = False
        """Whether any request was not Ctrl-C: a scheduler will not wait for long."""
        self.interrupted_at: float | None = None

    def handle(self, number: int, frame: object) -> None:
        """Handle a signal."""
        if os.getpid() != self.listener:
            return
        if number == signal.SIGHUP:
            _leave_terminal()
        is_first, self.first = self.first is None, self.first or number
        self.is_urgent |= number != signal.SIGINT
        if self.pass_on is not None:
            self.pass_on(number)
            return
        if number == signal.SIGINT:
            before, self.interrupted_at = self.interrupted_at, time.monotonic()
            if before is not None and self.interrupted_at - before > AGAIN_S:
                raise KeyboardInterrupt
        waits = self.is_noted or self.is_held
        if (self.may_stop and self.is_urgent) or (is_first and not waits):
            raise Stopped
        if is_first and self.is_noted:
            with contextlib.suppress(OSError):  # not print: it may be what was interrupted
                os.write(1, b"\nstopping after this step; press Ctrl-C again to stop at once\n")

    def again(self, lost: sys.UnraisableHookArgs) -> None:
        """Send the signal again if Python dropped a ``Stopped``, as in ``__del__`` or in a fork."""
        number = self.first
        if lost.exc_type is not Stopped or number is None or os.getpid() != self.listener:
            self.hook_before(lost)
            return
        self.first = None
        asking = threading.Timer(_SOON_S, self._ask, (number,))
        asking.daemon = True
        asking.start()

    def _ask(self, number: int) -> None:
        if os.getpid() == self.listener:  # else the signal would end the process
            os.kill(self.listener, number)


_requests = _Requests()


def listen() -> None:
    """Handle this process's signals, except those that it was started to ignore (nohup).

    If it listens already, nothing changes.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if _requests.listener == os.getpid() or not is_main:  # only the main thread can set handlers
        return
    _requests.forget()
    _requests.listener = os.getpid()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _requests.handle)
    _requests.hook_before, sys.unraisablehook = sys.unraisablehook, _requests.again
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def asked() -> bool:
    """Tell whether this process was asked to stop."""
    return _requests.first is not None


def is_due() -> bool:
    """Tell whether this process, inside ``noted``, decides for itself and must stop soon.

    It must stop soon if the request was not Ctrl-C: a scheduler does not wait for long.
    """
    return _requests.is_alone and _requests.is_urgent


def exit_code() -> int:
    """Return the exit code of a process that was asked to stop: that of its first request."""
    by_hand = _requests.first in (None, signal.SIGINT)
    return 128 + (signal.SIGINT if by_hand else signal.SIGTERM)


@contextlib.contextmanager
def without_exit() -> Iterator[None]:
    """Turn a ``sys.exit`` inside into an error.

    Raises:
        KeyboardInterrupt: Lightning called it because of a KeyboardInterrupt.
        UserError: the user's code called it; such a run is not finished, whatever the exit code.
    """
    try:
        yield
    except SystemExit as end:
        if asked() or isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from end
        raise UserError(
            f"sys.exit({end.code!r}) was called in the middle of the work "
            f"({place_of(end)}); raise an error there instead"
        ) from end


def place_of(error: BaseException) -> str:
    """Say where an error was raised, or ``sys.exit`` was called: ``file:line``."""
    frames = list(traceback.extract_tb(error.__traceback__))
    if isinstance(error, SystemExit):  # W&B puts a function of its own, ``exit``, in its place
        frames = [frame for frame in frames if frame.name != "exit"] or frames
    return f"{frames[-1].filename}:{frames[-1].lineno}"


@contextlib.contextmanager
def noted(*, alone: bool) -> Iterator[None]:
    """Note requests without acting on them; the code inside calls ``asked`` to learn of them.

    Only a second Ctrl-C ends the process at once.

    Args:
        alone: whether this process decides for itself; if not, ``may_stop`` has no effect.

    Raises:
        KeyboardInterrupt: a second Ctrl-C.
    """
    with listening():
        _requests.is_noted, _requests.is_alone = True, alone
        try:
            yield
        finally:
            _requests.is_noted = _requests.is_alone = False


@contextlib.contextmanager
def may_stop() -> Iterator[None]:
    """Mark work inside ``noted`` that can be left undone: a scheduler need not wait for its end.

    Ctrl-C does wait: a person who stops a run wants the step that was paid for.

    Raises:
        Stopped: a request that is not Ctrl-C, now or noted before.
    """
    if not _requests.is_alone:
        yield
        return
    _requests.may_stop = True
    try:
        if is_due():
            raise Stopped
        yield
    finally:
        _requests.may_stop = False


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Finish the work inside: a request that comes meanwhile is raised after it.

    Raises:
        Stopped: outside ``noted``, a request that came meanwhile.
    """
    before, _requests.is_held = _requests.first, True
    try:
        yield
    finally:
        _requests.is_held = False
    if before is None and asked() and not _requests.is_noted:
        raise Stopped


@contextlib.contextmanager
def passed_on(to: Callable[[int], None]) -> Iterator[None]:
    """Hand every signal's number to a function, which passes it on to other processes."""
    with listening():
        _requests.pass_on = to
        try:
            yield
        finally:
            _requests.pass_on = None


@contextlib.contextmanager
def kept_from_children() -> Iterator[None]:
    """Keep the signals from processes that are started inside, and from those that they start.

    A signal to a process group would otherwise end the workers of a process that is still saving.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hear_no_more() -> None:
    """Ignore every request from now on: this process has done its work and ends by itself."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_at_sigterm() -> None:
    """Let SIGTERM end this process, which only waits for its end, at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Listen to the signals inside, if this process does not yet, and then give them back."""
    if _requests.listener == os.getpid():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    listen()
    try:
        yield
    finally:
        if _requests.listener == os.getpid():
            for number, handler in handlers.items():
                signal.signal(number, handler)
            sys.unraisablehook = _requests.hook_before
            _requests.listener = -1


def _leave_terminal() -> None:
    """Send output to the null device, because a write to a closed terminal would fail."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.isatty(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
