"""The child process of ``reader.ClipReader``: answers each request by calling one function.

It is started as ``python -m omni_rlvr.media.sandbox.child package.module:function LIMITS``. A
message is its length (8 bytes) and a pickle. What C libraries print cannot damage messages: stdout
is redirected to stderr. The child ends when the pipe closes. If a request runs far beyond its time
limit, the kernel ends the child (SIGALRM) even if its parent is gone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from typing import BinaryIO

from omni_rlvr.media import limits
from omni_rlvr.types import MediaError

HEADER = struct.Struct("<Q")
READY = "ready"
_CHANGE = "convert it, or change the limit"
LIBRARIES = ("av", "decord", "numpy", "scipy", "soundfile")
"""Modules that the child's functions read files with."""


def main(function_name: str, limits_text: str) -> None:
    """Serve requests, within limits given as JSON, until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    requests, answers = _take_pipes()
    module, _, name = function_name.partition(":")
    function = vars(importlib.import_module(module))[name]
    limits.enforce(limits.Limits(**json.loads(limits_text)))
    _send(answers, (READY, None))
    while (request := _receive(requests)) is not None:
        limit_s, args, kwargs = request
        signal.setitimer(signal.ITIMER_REAL, 2 * limit_s + 1)
        answer = _call(function, args, kwargs)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(answers, answer)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return copies of the two pipes; replace stdin by an empty file and stdout by stderr."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return requests, answers


def _call(function: Callable, args: tuple, kwargs: dict) -> tuple[str, object]:
    try:
        return "result", function(*args, **kwargs)
    except MediaError as error:
        return "media_error", str(error)
    except MemoryError:
        allowed = f"dataset.max_memory_gb={limits.in_force().max_memory_gb:g} allows"
        return "unreadable", f"reading it takes more memory than {allowed}; {_CHANGE}"
    except Exception as error:
        if _is_of_a_library(error):
            why = " ".join(traceback.format_exception_only(error)).strip()
            again = "convert or download it again"
            return "unreadable", f"a media library failed on it ({why}); {again}"
        return (
            "fault",
            traceback.format_exc(),
        )  # a bug in this package: the parent raises it with this traceback


def _is_of_a_library(error: Exception) -> bool:
    """Tell whether a media library raised an error, by its class or the code that raised it.

    Libraries check little of what a file claims, so any error in them means that the file is bad.
    """
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    file = (
        frame.f_code.co_filename
    )  # for compiled code without a module name: "av/container/input.py"
    raised_in = frame.f_globals.get("__name__", file.replace("/", "."))
    modules = {name.partition(".")[0] for name in (type(error).__module__, raised_in)}
    return not modules.isdisjoint(LIBRARIES)


def _receive(pipe: BinaryIO) -> tuple | None:
    header = pipe.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    return pickle.loads(pipe.read(size))


def _send(pipe: BinaryIO, message: tuple[str, object]) -> None:
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.writelines((HEADER.pack(len(body)), body))
    pipe.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main(sys.argv[1], sys.argv[2])
    os._exit(0)  # skip Python's teardown: C libraries may hang in it
