"""Processes that a test forks: as quick as threads, since torch is imported already."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable, Sequence


def forked(tasks: Sequence[Callable[[], object]]) -> list[int]:
    """Do tasks at the same time, each in a fork of this process; 0, 1 for an error, or a signal.

    No fork is left behind if the test ends before its time.
    """
    children, codes = [], []
    try:
        for task in tasks:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads
                child = os.fork()
            if child == 0:
                _do(task)
            children.append(child)
        for child in children:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    finally:
        for child in children[len(codes) :]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return codes


def _do(task: Callable[[], object]) -> None:
    code = 1
    try:
        task()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # the test's own clean-up is not this process's
