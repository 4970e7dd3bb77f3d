"""Print text from outside (a model, a file name) safely on any terminal.

Printing never ends a task: a character that the terminal's encoding lacks is written as
``\\u2026``, and output that can no longer be written is dropped.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import TextIO
from unicodedata import category

log = logging.getLogger(__name__)

UNPRINTABLE = "\ufffd"
"""Replaces characters that must not be printed; an incomplete UTF-8 character decodes to it, too.
"""


def printable(text: str) -> str:
    """Replace control characters, which could steer a terminal; new lines and tabs stay.

    Surrogates are replaced too: they stand for undecodable bytes of a file name, and cannot be
    written.
    """
    return "".join(
        c if c in "\n\t" or category(c) not in ("Cc", "Cs") else UNPRINTABLE for c in text
    )


def start_in_utf8() -> None:
    """Restart the command in Python's UTF-8 mode where the locale cannot encode most file names.

    Printing keeps the terminal's own encoding. The function does not return if it restarts.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:backslashreplace")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def open_streams() -> None:
    """Let stdout and stderr print any text in any encoding; open a closed one on the null device.

    The next file that is opened would otherwise get the closed descriptor, and be printed into.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 (descriptor 0)
    for name in ("stdout", "stderr"):
        stream = vars(sys)[name]
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 (1 or 2)
            setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class LogHandler(logging.StreamHandler):
    """Prints log records to the current ``sys.stdout``, as ``print`` does.

    A progress bar replaces ``sys.stdout`` while it is drawn, so that lines appear above it. A
    handler that kept its first stream would write into the bar.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """The current ``sys.stdout``."""
        return sys.stdout


def keep_printing() -> None:
    """Let a task go on even if its output can no longer be written.

    The disk may be full, the terminal closed, or a reader such as ``| head`` gone. No print
    raises afterwards; the task's results are in its files.
    """
    logging.raiseExceptions = False  # of handlers, which print to the same place
    for name in ("stdout", "stderr"):
        stream = vars(sys)[name]
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, _Lasting):
            stream.flush()
            setattr(sys, name, _Lasting(stream))


class _Lasting(io.TextIOWrapper):
    """A stream that switches to the null device once it can no longer be written."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=True,  # keeps the order: logs go to the same buffer past this stream
        )

    def write(self, text: str) -> int:
        """Write a text, or drop it."""
        try:
            return super().write(text)
        except OSError as error:
            self._redirect_to_null(error)
            return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        try:
            super().flush()
        except OSError as error:
            self._redirect_to_null(error)

    def close(self) -> None:
        """Write what is buffered; only the owner of the wrapped stream may close that."""
        if not self.buffer.closed:
            self.flush()

    def _redirect_to_null(self, error: OSError) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        log.warning("%s can no longer be written (%s); the task goes on", self.name, error.strerror)
