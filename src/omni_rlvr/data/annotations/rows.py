"""Annotation files as rows, one at a time: JSON lists and JSON Lines, each row with its place.

This file knows file formats, not what a row means: ``formats`` turn rows into records. msgspec
decodes row by row, so that only one row of a large file is a Python object at a time. What msgspec
rejects is parsed again with Python's ``json``, which accepts more (NaN, lone surrogates) and gives
clearer errors.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from omni_rlvr.data.annotations.encoding import decode, utf8
from omni_rlvr.foreign import NO_LIST, recognise_file
from omni_rlvr.media.files import located
from omni_rlvr.types import UserError

_DECODE = msgspec.json.Decoder().decode
_SPLIT = msgspec.json.Decoder(list[msgspec.Raw]).decode
_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
SUFFIXES = (".json", ".jsonl")


class Row(msgspec.Struct, frozen=True, gc=False):
    """One JSON object of an annotation file."""

    value: Mapping[str, object]
    path: Path
    number: int
    """The index in a JSON list (from 0), or the line of JSON Lines (from 1)."""

    @property
    def source(self) -> str:
        """The row's place: ``file[index]`` or ``file:line``."""
        return place(self.path, self.number)


def place(path: Path | str, number: int | None) -> str:
    """Say where a row is: ``file[index]`` of a JSON list, ``file:line`` of other files.

    Without a number it is the file alone: a clip whose file or folder name gives its label.
    """
    if number is None:
        return str(path)
    return f"{path}[{number}]" if str(path).lower().endswith(".json") else f"{path}:{number}"


def iterate(path: Path) -> Iterator[Row]:
    """Read an annotation file row by row.

    ``.json`` is a list of objects, ``.jsonl`` one object a line (blank lines are skipped).

    Args:
        path: The annotation file.

    Returns:
        The rows in file order, at least one.

    Raises:
        UserError: The file is missing, empty, or not what its suffix says.
    """
    data = utf8(_read(path), path)
    if not data or data.isspace():
        raise UserError(f"{path}: the annotation file is empty")
    return _list_rows(data, path) if is_list(path) else _line_rows(data, path)


def read_text(path: Path, *, western: bool = False) -> str:
    """Read an annotation file as text (see ``encoding.decode``), with every line end as ``\\n``.

    Raises:
        UserError: The file is missing, empty, or not text.
    """
    text = decode(_read(path), path, western=western)
    if not text.strip():
        raise UserError(f"{path}: the annotation file is empty")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(path: Path) -> bytes:
    path = located(path)
    if not path.exists():
        raise UserError(
            f"{path}: no such annotation file (looked in {path.parent.absolute()}, and below "
            "dataset.root)"
        )
    try:
        if found := recognise_file(path, NO_LIST):
            raise UserError(f"{path}: not an annotation file but {found}")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def kind(value: object) -> str:
    """Name the JSON type of a value."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names[type(value)]


def is_list(path: Path) -> bool:
    """Tell whether a file is one JSON list, and not JSON Lines."""
    return path.suffix.lower() == ".json"


def _parse_json(text: str, path: Path, line: int) -> object:
    """Parse text that begins on this line of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        source = f"{path}:{line + error.lineno - 1}"
        message = f"{source}: not valid JSON: {error.msg} at column {error.colno}"
        if error.msg == "Extra data" and is_list(path):
            message += "; if it holds one object a line, name it .jsonl"
        raise UserError(message) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a list 100,000 deep
        raise UserError(f"{path}:{line}: not valid JSON: {error}") from error


def _list_rows(data: bytes, path: Path) -> Iterator[Row]:
    number = 0
    try:
        for raw in _SPLIT(data):  # views of the file's bytes
            yield _row(_DECODE(raw), path, number)
            number += 1
    except _REFUSED:
        values = _parse_json(read_text(path), path, 1)
        if not isinstance(values, list):
            raise UserError(
                f"{path}: a JSON annotation file is a list of objects, this is {kind(values)}"
            ) from None
        for value in values[number:]:
            yield _row(value, path, number)
            number += 1
    if number == 0:
        raise UserError(f"{path}: the list is empty")


def _line_rows(data: bytes, path: Path) -> Iterator[Row]:
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for number, line in enumerate(io.BytesIO(data), start=1):
        if not line.isspace():
            yield _row(_line_value(line, path, number), path, number)


def _line_value(line: bytes, path: Path, number: int) -> object:
    try:
        return _DECODE(line)
    except _REFUSED:
        pass
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError):
        read_text(path)  # raises if the encoding is wrong, which explains more than a parse error
        return _parse_json(line.decode().removesuffix("\n"), path, number)


def _row(value: object, path: Path, number: int) -> Row:
    if not isinstance(value, dict):
        source = Row({}, path, number).source
        is_named = isinstance(value, list) and not is_list(path)
        advice = "; name a file that is one list .json" if is_named else ""
        raise UserError(f"{source}: an annotation is a JSON object, this is {kind(value)}{advice}")
    return Row(value, path, number)
