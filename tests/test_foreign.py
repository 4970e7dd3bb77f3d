"""What a file is whose name promises something else."""

from __future__ import annotations

from pathlib import Path

import case_foreign
import pytest
from every_case import every_case

from omni_rlvr.data.annotations.rows import read_text
from omni_rlvr.foreign import HEAD_BYTES, NO_LIST, NO_WEIGHTS, recognise, recognise_file
from omni_rlvr.types import UserError

OPENED = ("jpeg", "webp", "bmp")
"""Pictures that are known when they are opened: a film may begin like them."""


@every_case("name", [name for name in case_foreign.CASES if name not in OPENED])
def test_what_it_is(name: str) -> None:
    content, called = case_foreign.CASES[name]
    assert str(recognise(content[:HEAD_BYTES])).startswith(called)


def test_what_is_not_known_is_let_through() -> None:
    wav = b"RIFF\x24\0\0\0WAVEfmt "
    for head in (b"", b"\0\0\0\x20ftypisom", b"\x1aE\xdf\xa3", wav, b"\xff\xfb\x90\0", b" " * 99):
        assert recognise(head) is None
    cut = ("ä" * HEAD_BYTES).encode()[: HEAD_BYTES - 1]
    assert recognise(cut).kind == "text"  # the head ends within a character


def test_each_reader_says_what_it_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for name, (is_list, is_weights) in {
        "lfs": (False, False), "page": (False, False), "png": (False, False),
        "json": (True, True), "text": (True, True), "zip": (False, True),
    }.items():  # fmt: skip
        path.write_bytes(case_foreign.CASES[name][0])
        assert (recognise_file(path, NO_LIST) is None) == is_list
        assert (recognise_file(path, NO_WEIGHTS) is None) == is_weights


@every_case("ending", ["json", "jsonl", "csv", "yaml", "txt"])
@every_case("name", ["lfs", "page", "zip", "zeros"])
def test_a_list_is_named_for_what_it_is(tmp_path: Path, ending: str, name: str) -> None:
    content, called = case_foreign.CASES[name]
    path = tmp_path / f"train.{ending}"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_text(path)
    assert str(error.value).startswith(f"{path}: not an annotation file but {called}")
