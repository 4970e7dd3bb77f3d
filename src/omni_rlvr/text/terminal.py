"""Text from outside (a model, a file name) as a terminal may show it, whatever the terminal.

Printing never ends a task: what a terminal has no sign for is written as ``\\u2026``, and what can
no longer be written at all is let go.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from unicodedata import category

log = logging.getLogger(__name__)

UNPRINTABLE = "\ufffd"
"""Stands for what is no text; an unfinished character is decoded to it, too."""


def printable(text: str) -> str:
    """Replaces control characters, which could steer a terminal; new lines and tabs stay.

    Surrogates go too: they stand for bytes of a file name that are no text, and cannot be written.
    """
    return "".join(
        c if c in "\n\t" or category(c) not in ("Cc", "Cs") else UNPRINTABLE for c in text
    )


def start_in_utf8() -> None:
    """Starts the command again in Python's UTF-8 mode where the locale has no name for most files.

    The terminal is still printed to in its own encoding. Does not return where it starts again.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    if sys.stdout is not None:
        os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:backslashreplace")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def open_streams() -> None:
    """Lets stdout and stderr print any text, in any encoding; a closed one prints to nowhere.

    A descriptor that was closed would be given to the next file that is opened, and printed into.
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


def keep_printing() -> None:
    """Lets a task outlive what it prints to: a full disk, a closed terminal, ``| head``.

    Raises nothing afterwards; the task's files hold what it found.
    """
    logging.raiseExceptions = False  # of handlers, which print to the same place
    for name in ("stdout", "stderr"):
        stream = vars(sys)[name]
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, _Lasting):
            stream.flush()
            setattr(sys, name, _Lasting(stream))


class _Lasting(io.TextIOWrapper):
    """A stream that goes on into nothing where it can no longer be written."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=stream.line_buffering,
            write_through=True,  # logs go to the same buffer past this stream, and in order
        )

    def write(self, text: str) -> int:
        """Writes a text, or lets it go."""
        try:
            return super().write(text)
        except OSError as error:
            self._let_go(error)
            return len(text)

    def flush(self) -> None:
        """Writes what is buffered, or lets it go."""
        try:
            super().flush()
        except OSError as error:
            self._let_go(error)

    def close(self) -> None:
        """Writes what is buffered; the stream it stands for is its owner's to close."""
        if not self.buffer.closed:
            self.flush()

    def _let_go(self, error: OSError) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        log.warning("%s can no longer be written (%s); the task goes on", self.name, error.strerror)
