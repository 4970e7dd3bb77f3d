"""Annotation files as rows, one at a time: JSON lists and JSON Lines, each row with its place.

It knows file formats, not what a row means: ``readers`` turn rows into examples. This is the strict
way, which words every error; ``json_blocks`` is the quick one for files without any.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from omni_rlvr.data.annotations.encoding import decode
from omni_rlvr.foreign import NO_LIST, recognise_file
from omni_rlvr.media.files import located
from omni_rlvr.types import UserError

SUFFIXES = (".json", ".jsonl")


@dataclass(frozen=True)
class Row:
    """One JSON object of an annotation file."""

    value: Mapping[str, object]
    path: Path
    number: int
    """The index in a JSON list (from 0), or the line of JSON Lines (from 1)."""

    @property
    def source(self) -> str:
        """``file[index]`` or ``file:line``."""
        return place(self.path, self.number)


def place(path: Path | str, number: int | None) -> str:
    """Says where a row stands: ``file[index]`` of a JSON list, ``file:line`` of other files.

    The file alone where there is no number: its name says the label.
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
    text = read_text(path)
    return _list_rows(text, path) if is_list(path) else _line_rows(text, path)


def read_text(path: Path, *, western: bool = False) -> str:
    """Read a list, see ``encoding.decode``; lines end in a line feed, whatever system wrote it.

    Raises:
        UserError: It is missing, empty, or no text.
    """
    path = located(path)
    if not path.exists():
        raise UserError(
            f"{path}: no such annotation file (looked in {path.parent.absolute()}, and below "
            "dataset.root)"
        )
    try:
        if found := recognise_file(path, NO_LIST):
            raise UserError(f"{path}: is no annotation file but {found}")
        text = decode(path.read_bytes(), path, western=western)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if not text.strip():
        raise UserError(f"{path}: the annotation file is empty")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def kind(value: object) -> str:
    """Name the JSON type of a value."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names[type(value)]


def is_list(path: Path) -> bool:
    """Whether a file is one JSON list, rather than an object a line."""
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


def _list_rows(text: str, path: Path) -> Iterator[Row]:
    values = _parse_json(text, path, 1)
    if not isinstance(values, list):
        raise UserError(
            f"{path}: a JSON annotation file is a list of objects, this is {kind(values)}"
        )
    if not values:
        raise UserError(f"{path}: the list is empty")
    for index, value in enumerate(values):
        yield _row(value, path, index)


def _line_rows(text: str, path: Path) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines would cut at U+2028 too
        if line.strip():
            yield _row(_parse_json(line, path, number), path, number)


def _row(value: object, path: Path, number: int) -> Row:
    if not isinstance(value, dict):
        source = Row({}, path, number).source
        is_named = isinstance(value, list) and not is_list(path)
        advice = "; a file that is one list is named .json" if is_named else ""
        raise UserError(f"{source}: an annotation is a JSON object, this is {kind(value)}{advice}")
    return Row(value, path, number)
