"""Call ``read_clip`` in a child process with a time limit, because C decoders hang and crash.

The child is a plain subprocess with pipes: a DataLoader worker is daemonic and may not have
multiprocessing children. Every wait has a time limit. The child starts at first use, belongs to the
process that started it, and is replaced after a timeout, a crash, or a number of clips (decoders
leak memory).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from omni_rlvr.media.limits import Limits
from omni_rlvr.media.request import ClipRequest
from omni_rlvr.media.sandbox.child import HEADER, READY
from omni_rlvr.stopping import kept_from_children
from omni_rlvr.types import Clip, MediaError

CHILD = "omni_rlvr.media.sandbox.child"
READ = "omni_rlvr.media.clip:read_clip"
"""The function that a child calls to read a clip."""
_START_LIMIT_S = 120.0  # importing Python and the decoders from a slow disk
_STOP_LIMIT_S = 5.0
_DYING_S = 1.0  # between a crash closing the pipe and its signal being known
_PIPE_SIZE = 1 << 20  # bytes; room for a clip of eight small frames


class ClipReader:
    """Reads clips in a child process. Picklable; every process that uses one has its own child.

    Only one thread may use a reader at a time.
    """

    def __init__(
        self,
        timeout_s: float,
        max_clips_per_process: int,
        function: str = READ,
        limits: Limits = Limits(),  # noqa: B008 (it is frozen)
    ) -> None:
        """Take the settings; the child starts with the first call.

        Args:
            timeout_s: Longest time for one clip, seconds, above 0.
            max_clips_per_process: Clips after which the child is replaced, at least 1.
            function: The function that the child calls, as ``package.module:name``.
            limits: Limits on the size of files; a data set's are ``Limits.of(vars(options))``.
        """
        if timeout_s <= 0 or max_clips_per_process < 1:
            raise ValueError(
                f"timeout_s must be above 0 and max_clips_per_process at least 1, got {timeout_s} "
                f"and {max_clips_per_process}"
            )
        self.timeout_s = timeout_s
        self.max_clips_per_process = max_clips_per_process
        self.function = function
        self.limits = limits
        self._child: _Child | None = None
        self._num_clips = 0

    def read(self, video: Path | None, audio: Path | None, request: ClipRequest) -> Clip:
        """Read one clip; arguments and result as in ``clip.read_clip``.

        Raises:
            MediaError: As ``read_clip``, or reading takes too long, or the child dies.
            RuntimeError: The child cannot start, or a bug in this package raised an error; the
                message has the traceback.
        """
        names = " + ".join(str(path) for path in (video, audio) if path is not None)
        clip = self.call((video, audio, request), {}, names)
        assert isinstance(clip, Clip)  # what the child's function returns
        return clip

    def call(
        self, args: tuple[object, ...], options: dict[str, object], names: str, num_clips: int = 1
    ) -> object:
        """Call the child's function; arguments and result are pickled.

        Args:
            args: Its positional arguments.
            options: Its keyword arguments.
            names: The files it works on, for messages.
            num_clips: The call counts as this many clips, and may take as many ``timeout_s``.

        Raises:
            MediaError: The function raised it, a media library failed, the time limit was
                exceeded, or the child died.
            RuntimeError: As ``read``.
        """
        child = self._ensure_started()
        self._num_clips += num_clips
        request = (num_clips * self.timeout_s, args, options)
        kind, value = self._ask(child, request, names, num_clips)
        if self._num_clips >= self.max_clips_per_process:
            self.close()
        if kind == "media_error":
            raise MediaError(str(value))
        if kind == "unreadable":
            raise MediaError(f"{names}: {value}")
        if kind == "fault":
            raise RuntimeError(f"reading {names} failed because of a bug in omni_rlvr:\n{value}")
        return value

    def abort(self) -> None:
        """Kill the child. The only method that may be called from another thread.

        A call in progress then raises a MediaError.
        """
        child = self._child
        if child is not None and child.owner == os.getpid():
            child.process.kill()

    def close(self) -> None:
        """Stop the child, if this process has one. The reader may be used again."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.owner == os.getpid():
            child.end(grace_s=_STOP_LIMIT_S)
            return
        # A copy made by fork: the child is not ours to wait for, and Popen must not warn about it.
        child.close_pipes()
        child.process.returncode = 0

    def __enter__(self) -> ClipReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if "_child" in vars(self):
            self.close()

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_child": None}

    def _ensure_started(self) -> _Child:
        if self._child is not None and self._child.owner == os.getpid():
            return self._child
        self.close()
        child = self._child = _start(self.function, self.limits)
        self._num_clips = 0
        os.set_blocking(child.answers.fileno(), False)
        if sys.platform == "linux":
            fcntl.fcntl(child.answers, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        try:
            ready = child.receive(time.monotonic() + _START_LIMIT_S)
        except TimeoutError:
            ready = None
        if ready != (READY, None):
            how = self._stop(child, grace_s=_DYING_S)
            raise RuntimeError(
                f"the process that reads clips did not start ({how}); its own error is on stderr. "
                f"Command: {sys.executable} -m {CHILD} {self.function}"
            )
        return child

    def _ask(
        self, child: _Child, request: tuple[float, tuple, dict], names: str, num_clips: int
    ) -> tuple[str, object]:
        body = pickle.dumps(request, protocol=pickle.HIGHEST_PROTOCOL)
        try:
            child.requests.write(HEADER.pack(len(body)) + body)
            answer = child.receive(time.monotonic() + request[0])
        except BrokenPipeError:
            answer = None
        except TimeoutError:
            self._stop(child, grace_s=0.0)
            times = f" times {num_clips}" if num_clips > 1 else ""
            raise MediaError(
                f"{names}: reading took longer than dataset.decode_timeout_s={self.timeout_s:g} s"
                f"{times} and was stopped; the file makes the decoder hang, or the limit is too "
                "low for it"
            ) from None
        except BaseException:  # Ctrl-C: the pipe may hold an answer that the next call would read
            self._stop(child, grace_s=0.0)
            raise
        if answer is None:
            how = self._stop(child, grace_s=_DYING_S)
            if how == "SIGABRT":  # C++ aborts when an allocation fails
                memory_gb = self.limits.max_memory_gb
                how += f", perhaps because dataset.max_memory_gb={memory_gb:g} is too low"
            raise MediaError(f"{names}: the decoder crashed ({how}); convert or download it again")
        return answer

    def _stop(self, child: _Child, *, grace_s: float) -> str:
        """End the child and say how it ended; it is killed if it still runs after ``grace_s``."""
        self._child = None
        child.end(grace_s=grace_s)
        code = child.process.returncode
        if code is None:
            return "cannot be killed"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


@dataclass(frozen=True)
class _Child:
    """A running child and the two pipes to it."""

    process: subprocess.Popen[bytes]
    requests: IO[bytes]
    answers: IO[bytes]
    owner: int
    """The process that started it; a fork holds a copy of this object."""

    def receive(self, deadline: float) -> tuple[str, object] | None:
        """Read one message; None when the child closed its end.

        Raises:
            TimeoutError: The message is not complete at ``deadline`` (of ``time.monotonic``).
        """
        header = self._read_exactly(HEADER.size, deadline)
        body = header and self._read_exactly(HEADER.unpack(header)[0], deadline)
        return pickle.loads(body) if body else None

    def _read_exactly(self, size: int, deadline: float) -> bytearray | None:
        fd = self.answers.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        data = bytearray(size)
        filled = 0
        while filled < size:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise TimeoutError
            try:
                count = os.readv(fd, [memoryview(data)[filled:]])
            except BlockingIOError:
                continue
            if count == 0:
                return None
            filled += count
        return data

    def close_pipes(self) -> None:
        """Close this end of both; the child ends when it finds no more requests."""
        self.requests.close()
        self.answers.close()

    def end(self, *, grace_s: float) -> None:
        """Let the child end by itself for ``grace_s``, then kill it."""
        self.close_pipes()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: leave it
                self.process.wait(_STOP_LIMIT_S)


def _start(function: str, limits: Limits) -> _Child:
    # The child gets the parent's import path, as with multiprocessing's spawn.
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    command = [sys.executable, "-m", CHILD, function, json.dumps(vars(limits))]
    with kept_from_children():
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path},
        )
    assert process.stdin is not None  # PIPE was asked for
    assert process.stdout is not None
    return _Child(process, process.stdin, process.stdout, owner=os.getpid())
