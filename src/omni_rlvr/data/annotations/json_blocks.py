"""JSON annotations as typed rows, a block of the file at a time: the quick way in.

A block is whole rows, decoded by msgspec to structs of the form's type; only one block's rows are
Python objects at a time. Whatever is not plainly of that type raises, be it wrong or only unusual:
the caller then goes through ``manifest.iterate``, which is slow and words the error. A list is cut
before what looks like the beginning of a row; a cut at a wrong place leaves a block that does not
decode, so it can never go unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from omni_rlvr.data.annotations.rows import is_list

T = TypeVar("T", bound=msgspec.Struct)


class NotPlain(Exception):
    """A file that the strict way must look at."""


NOT_PLAIN = (NotPlain, msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError)
"""What reading raises where the strict way must look."""

_BLOCK_BYTES = 128 << 10
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_GAP_BYTES = 4096  # white space between two rows
_COMMA = re.compile(rb",\s*$")
_FIRST_KEY = re.compile(rb'\s*\[\s*(\{\s*"[^"\\]*")')


def typed_rows(path: Path, kind: type[T]) -> Iterator[tuple[Sequence[T], Sequence[int]]]:
    """Read a ``.json`` or ``.jsonl`` file.

    Args:
        path: The annotation file.
        kind: The type of a row: its keys and what they hold; other keys are ignored.

    Returns:
        For each block its rows and their numbers: the index in a list, or the line from 1.

    Raises:
        NOT_PLAIN: A row is not of this type, the file is no such file, or rows cannot be told apart
            from afar.
    """
    return _list_rows(path, kind) if is_list(path) else _line_rows(path, kind)


def _line_rows(path: Path, kind: type[T]) -> Iterator[tuple[Sequence[T], Sequence[int]]]:
    decode = msgspec.json.Decoder(kind).decode
    number = 1
    for block in _line_blocks(path):
        lines = block.split(b"\n")
        numbers = [n for n, line in enumerate(lines, number) if line and not line.isspace()]
        yield [decode(lines[n - number]) for n in numbers], numbers
        number += len(lines)


def _line_blocks(path: Path) -> Iterator[bytes]:
    """Cut a file into blocks of whole lines, without the line end of the last."""
    with path.open("rb") as file:
        text = file.read(_BLOCK_BYTES).removeprefix(_BYTE_ORDER_MARK)
        size = _BLOCK_BYTES
        while more := file.read(size):
            cut = text.rfind(b"\n")
            if cut >= 0:
                yield text[:cut]
            text = text[cut + 1 :] + more
            size = _BLOCK_BYTES if cut >= 0 else len(text)
    yield text


def _list_rows(path: Path, kind: type[T]) -> Iterator[tuple[Sequence[T], Sequence[int]]]:
    decode = msgspec.json.Decoder(list[kind]).decode  # type: ignore[valid-type]
    number = 0
    for block in _list_blocks(path):
        rows = decode(b"[%b]" % block)
        if not rows:  # an empty list, or two commas
            raise NotPlain("no row")
        yield rows, range(number, number + len(rows))
        number += len(rows)


def _list_blocks(path: Path) -> Iterator[bytes]:
    """Cut the text between the brackets of a list into blocks of whole rows.

    Rows of a file mostly begin alike, with the same first key; a cut is made before such a
    beginning. Where none is found, twice as much is read.
    """
    with path.open("rb") as file:
        text = file.read(_BLOCK_BYTES).removeprefix(_BYTE_ORDER_MARK)
        head = _FIRST_KEY.match(text)
        if head is None:
            raise NotPlain("no list of objects")
        text = text[head.start(1) :]
        size = _BLOCK_BYTES
        while more := file.read(size):
            cut = text.rfind(head[1])
            comma = _COMMA.search(text, max(0, cut - _MAX_GAP_BYTES), cut) if cut > 0 else None
            if comma is not None:
                yield text[: comma.start()]
                text = text[cut:]
            size = _BLOCK_BYTES if comma is not None else len(text)
            text += more
    text = text.rstrip()
    if not text.endswith(b"]"):
        raise NotPlain("the list does not end")
    yield text[:-1]
