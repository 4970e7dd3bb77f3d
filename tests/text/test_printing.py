"""Printing never ends a task: encodings without the signs, closed streams, full disks."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from omni_rlvr.tasks.dataset.check import SplitReport, report_tables
from omni_rlvr.tasks.predictions_text import BAR_WIDTH, show_prediction
from omni_rlvr.text.progress import progress_bar
from omni_rlvr.text.terminal import keep_printing, open_streams

WORDS = ("高兴", "fâché", "…", "\udcff", "𝒳")
ENCODINGS = ("ascii", "latin-1", "cp1252", "gbk", "utf-8")


def redirect(monkeypatch: pytest.MonkeyPatch, encoding: str) -> io.BytesIO:
    """Takes what goes to standard output, of a terminal with this encoding."""
    buffer = io.BytesIO()
    for name, target in (("stdout", buffer), ("stderr", io.BytesIO())):
        stream = io.TextIOWrapper(target, encoding=encoding, errors="strict", write_through=True)
        monkeypatch.setattr(sys, name, stream)
    open_streams()
    return buffer


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_text_is_printed(encoding: str, monkeypatch) -> None:
    printed = redirect(monkeypatch, encoding)
    print(*WORDS)
    print(*WORDS, file=sys.stderr)
    sys.stderr.flush()
    wanted = " ".join(WORDS).encode(encoding, errors="backslashreplace") + b"\n"
    assert printed.getvalue() == wanted


def prediction(label: str) -> dict:
    return {
        "answer": label, "predicted": label, "truncated": False, "has_video": True,
        "has_audio": True, "probabilities": {label: 0.9, "sad": 0.1}, "scored_after": "completion",
        "answer_form": "tags", "list_probability": 0.5, "notes": [],
    }  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_tasks_print(encoding: str, monkeypatch) -> None:
    printed = redirect(monkeypatch, encoding)
    show_prediction(prediction(WORDS[0]))
    report = SplitReport("train", {"total": 1, WORDS[1]: 1}, {}, {WORDS[0]: 2})
    Console().print(report_tables([report], WORDS[2], 3))
    with progress_bar(WORDS[0], 2) as advance:
        advance(2)
    sys.stdout.flush()
    text = printed.getvalue().decode(encoding)
    for word in (WORDS[0], WORDS[1]):
        assert word.encode(encoding, errors="backslashreplace").decode(encoding) in text
    if encoding != "utf-8":  # bars and boxes of plain signs
        assert "#" * round(0.9 * BAR_WIDTH) in text
        assert "\\u25" not in text


def test_streams_that_are_closed(monkeypatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    open_streams()
    streams = (sys.stdin, sys.stdout, sys.stderr)
    print("text")
    print("text", file=sys.stderr)
    sys.stdout.flush()
    assert [stream.name for stream in streams] == [os.devnull] * 3
    for stream in streams:
        stream.close()


@pytest.mark.parametrize("kind", ["full disk", "gone reader"])
def test_a_task_outlives_what_it_prints_to(kind: str, monkeypatch, caplog) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", True)
    if kind == "full disk":
        writing = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, writing = os.pipe()
        os.close(reading)
    stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(writing, "w")), line_buffering=True)
    monkeypatch.setattr(sys, "stdout", stream)
    with caplog.at_level(logging.WARNING):
        keep_printing()
        for _ in range(3):
            print("text " * 10_000, flush=True)
        sys.stdout.flush()
    assert caplog.text.count("can no longer be written") == 1
    assert Path(f"/proc/self/fd/{writing}").readlink() == Path(os.devnull)
    stream.close()


def test_logs_and_prints_keep_their_order(monkeypatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", True)
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="utf-8"))
    handler = logging.StreamHandler(sys.stdout)  # as Hydra's, made before the task
    keep_printing()
    print("one")
    handler.emit(logging.makeLogRecord({"msg": "two"}))
    print("three", flush=True)
    assert buffer.getvalue() == b"one\ntwo\nthree\n"


def test_streams_are_made_to_last_once(monkeypatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", True)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    keep_printing()
    once = sys.stdout
    keep_printing()
    assert sys.stdout is once


def test_a_locale_that_names_no_file_beyond_ascii(tmp_path: Path) -> None:
    """The command starts again in Python's UTF-8 mode and prints in the encoding that was there."""
    code = (
        "import sys; from omni_rlvr.text.terminal import open_streams, start_in_utf8; "
        "start_in_utf8(); open_streams(); print(open(sys.argv[1], encoding='utf-8').read(), "
        "sys.stdout.encoding, sys.getfilesystemencoding())"
    )
    (tmp_path / "é.txt").write_text("fâché", "utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))} | plain
    done = subprocess.run(
        [sys.executable, "-c", code, "é.txt"], cwd=tmp_path, env=environment, capture_output=True
    )
    assert done.stderr == b""
    assert done.stdout == b"f\\xe2ch\\xe9 ascii utf-8\n"
