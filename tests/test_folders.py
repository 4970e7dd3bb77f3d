"""Folders whole or not at all, made by one alone, and checked against what was written."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from every_case import every_case
from safetensors import SafetensorError

from omni_rlvr.folders import (
    check_sums,
    new_folder,
    whole_files,
    whole_folder,
    write_file,
    write_sums,
)
from omni_rlvr.types import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@every_case(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), errno.EDQUOT),
        (SafetensorError("I/O error: No space left on device (os error 28)"), errno.ENOSPC),
        (
            Exception("Input/output error (os error 5)"),
            errno.EIO,
        ),  # of tokenizers: no class of its own
        (RuntimeError("[enforce fail at inline_container.cc:603] . unexpected pos"), errno.EIO),
    ],
)
@every_case("there", [True, False])
def test_a_disk_that_takes_no_more_leaves_what_was_there(
    tmp_path: Path, error: Exception, number: int, there: bool
) -> None:
    folder = tmp_path / "report"
    if there:
        folder.mkdir()
        (folder / "old").touch()
    with pytest.raises(OSError) as caught, whole_folder(folder) as partial:  # noqa: PT012
        (partial / "new").touch()
        raise error
    assert caught.value.errno == number
    assert names(tmp_path) == (["report"] if there else [])
    assert not there or names(folder) == ["old"]


@pytest.mark.parametrize("error", [KeyError("bug"), RuntimeError("bug"), UserError("NaN")])
def test_what_is_no_error_of_the_disk_is_not_called_one(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, whole_folder(tmp_path / "x"):
        raise error
    assert caught.value is error
    assert names(tmp_path) == []


def test_a_whole_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with whole_folder(tmp_path / "x", sums=True) as partial:
            (partial / "below").mkdir()
            (partial / "below" / text).write_text(text)
            assert not (tmp_path / "x" / "below" / text).exists()
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["SHA256SUMS", "below"]
    assert names(tmp_path / "x" / "below") == ["new"]
    assert check_sums(tmp_path / "x") is None


def test_files_that_go_into_a_folder_come_all_or_none(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    for text in ("old", "new"):
        with whole_files(tmp_path) as partial:
            (partial / "figures").mkdir()
            (partial / "figures" / text).touch()
            (partial / "report.html").write_text(text)
    with pytest.raises(OSError, match="full"), whole_files(tmp_path) as partial:  # noqa: PT012
        (partial / "report.html").write_text("newest")
        raise OSError("full")
    assert names(tmp_path) == ["figures", "report.html", "run.json"]
    assert names(tmp_path / "figures") == ["new"]
    assert (tmp_path / "report.html").read_text() == "new"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    write_file(tmp_path / "run.json", b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_file(tmp_path / "run.json", b"new")
    assert (tmp_path / "run.json").read_bytes() == b"old"
    assert names(tmp_path) == ["run.json"]


def test_of_many_that_want_one_folder_each_makes_its_own(tmp_path: Path) -> None:
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(new_folder(tmp_path / "a" / "now")))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in made) == sorted(names(tmp_path / "a"))
    assert len({*made}) == 20
    assert {"now", "now_1", "now_19"} <= {*names(tmp_path / "a")}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (
        flip,
        "is not as it was written (its SHA-256 differs from that in SHA256SUMS)",
    ),
    "cut short": (lambda path: os.truncate(path, path.stat().st_size - 1), "is not as it was"),
    "empty": (lambda path: os.truncate(path, 0), "is not as it was written"),
    "missing": (Path.unlink, "is missing"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is missing"),
}


@every_case("damage", DAMAGES)
@every_case("file", ["model.safetensors", "image_processor/config.json"])
def test_a_file_that_is_not_as_it_was_written_is_named(
    tmp_path: Path, damage: str, file: str
) -> None:
    for name in ("model.safetensors", "image_processor/config.json", "trainer_state.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write_sums(tmp_path)
    assert check_sums(tmp_path) is None
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    (tmp_path / "README.md").touch()  # another file beside is the user's
    (tmp_path / "trainer_state.pt").unlink()
    assert check_sums(tmp_path) == "trainer_state.pt is missing"
    assert check_sums(tmp_path, but=("trainer_state.pt",)) is None
    act, message = DAMAGES[damage]
    act(tmp_path / file)
    wrong = check_sums(tmp_path, but=("trainer_state.pt",))
    assert wrong is not None
    assert wrong.startswith(f"{file} {message}")


@every_case("text", ["", "abc", "\0\0\0", "0" * 64])
def test_digests_that_are_damaged_are_named(tmp_path: Path, text: str) -> None:
    assert check_sums(tmp_path) is None  # a checkpoint from before there were any
    (tmp_path / "SHA256SUMS").write_text(text)
    assert check_sums(tmp_path) in ("SHA256SUMS is empty", "SHA256SUMS is damaged")
