"""Annotation files as rows: JSON lists, JSON Lines, YAML mixtures, each row with where it stands.

It knows file formats, not what a row means: ``readers`` turn rows into examples. Every row keeps
its ``file[index]`` or ``file:line``, so that an error found later can name it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from omni_rlvr.types import UserError

_STRATEGY = re.compile(r"(first|end|random):([0-9]{1,15})(%?)")
_STRATEGIES = "all, first:N, end:N, random:N (N a count, or a percentage as in 10%)"


@dataclass(frozen=True)
class Row:
    """One JSON object of an annotation file."""

    value: Mapping[str, object]
    source: str
    """``file[index]`` (JSON, from 0) or ``file:line`` (JSON Lines, from 1)."""


def read_rows(path: Path, *, seed: int) -> list[Row]:
    """Read an annotation file of any known format.

    ``.json`` is a list of objects, ``.jsonl`` one object a line (blank lines are skipped),
    ``.yaml`` or ``.yml`` a mixture ``datasets: [{json_path, sampling_strategy}]`` of such files,
    with paths relative to the YAML file. A strategy is ``all`` (also when left out), ``first:N``,
    ``end:N`` or ``random:N``; a percentage is rounded up.

    Args:
        path: The annotation file.
        seed: Decides what ``random:N`` draws, together with the entry's place in the mixture.

    Returns:
        The rows in file order, at least one.

    Raises:
        UserError: The file is missing, empty, not what its suffix says, or asks for more rows than
            there are.
    """
    readers: dict[str, Callable[[Path], list[Row]]] = {
        ".json": _read_json,
        ".jsonl": _read_jsonl,
        ".yaml": lambda mixture: _read_mixture(mixture, seed),
        ".yml": lambda mixture: _read_mixture(mixture, seed),
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise UserError(
            f"{path}: unknown kind of annotation file {suffix!r}; known: {', '.join(readers)}"
        )
    return readers[suffix](path)


def _read_text(path: Path) -> str:
    if not path.exists():
        raise UserError(f"{path}: no such annotation file (looked in {path.parent.absolute()})")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    if not text.strip():
        raise UserError(f"{path}: the annotation file is empty")
    return text


def _parse_json(text: str, path: Path, line: int) -> object:
    """Parse text that begins on this line of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        source = f"{path}:{line + error.lineno - 1}"
        message = f"{source}: not valid JSON: {error.msg} at column {error.colno}"
        if error.msg == "Extra data" and path.suffix.lower() == ".json":
            message += "; if it holds one object a line, name it .jsonl"
        raise UserError(message) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a list 100,000 deep
        raise UserError(f"{path}:{line}: not valid JSON: {error}") from error


def _read_json(path: Path) -> list[Row]:
    values = _parse_json(_read_text(path), path, 1)
    if not isinstance(values, list):
        raise UserError(
            f"{path}: a JSON annotation file is a list of objects, this is {_kind(values)}"
        )
    if not values:
        raise UserError(f"{path}: the list is empty")
    return [_row(value, f"{path}[{index}]") for index, value in enumerate(values)]


def _read_jsonl(path: Path) -> list[Row]:
    lines = enumerate(_read_text(path).split("\n"), start=1)  # splitlines would cut at U+2028 too
    return [
        _row(_parse_json(line, path, number), f"{path}:{number}")
        for number, line in lines
        if line.strip()
    ]


def _row(value: object, source: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{source}: an annotation is a JSON object, this is {_kind(value)}")
    return Row(value, source)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names[type(value)]


def _read_mixture(path: Path, seed: int) -> list[Row]:
    try:
        mixture = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(mixture, dict) or list(mixture) != ["datasets"]:
        raise UserError(
            f"{path}: a mixture has one key, datasets: a list of json_path, sampling_strategy"
        )
    entries = mixture["datasets"]
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: datasets is {entries!r}; it must be a list of at least one entry")
    rows: list[Row] = []
    for index, entry in enumerate(entries):
        source = f"{path}: datasets[{index}]"
        rows += _read_entry(path.parent, entry, source, random.Random(f"{seed}:{index}"))
    return rows


def _read_entry(folder: Path, entry: object, source: str, rng: random.Random) -> list[Row]:
    if not isinstance(entry, dict) or "json_path" not in entry:
        raise UserError(f"{source}: {entry!r} has no json_path")
    unknown = [key for key in entry if key not in ("json_path", "sampling_strategy")]
    if unknown:
        raise UserError(
            f"{source}: unknown key {unknown[0]!r}; known: json_path, sampling_strategy"
        )
    json_path = entry["json_path"]
    if not isinstance(json_path, str):
        raise UserError(f"{source}: json_path is {json_path!r}, not a string")
    path = folder / json_path
    if path.suffix.lower() not in (".json", ".jsonl"):
        raise UserError(f"{source}: json_path {json_path!r} must end in .json or .jsonl")
    rows = read_rows(path, seed=0)  # JSON draws nothing
    if "sampling_strategy" not in entry:
        return rows
    return _sample(rows, entry["sampling_strategy"], source, rng)


def _sample(rows: Sequence[Row], strategy: object, source: str, rng: random.Random) -> list[Row]:
    """Apply a sampling strategy; what is drawn stays in file order."""
    if strategy == "all":
        return list(rows)
    match = _STRATEGY.fullmatch(strategy) if isinstance(strategy, str) else None
    if match is None:
        raise UserError(f"{source}: unknown sampling_strategy {strategy!r}; known: {_STRATEGIES}")
    kind, number, percent = match[1], int(match[2]), bool(match[3])
    count = -(-number * len(rows) // 100) if percent else number
    if not 1 <= count <= len(rows):
        raise UserError(
            f"{source}: sampling_strategy {strategy!r} asks for {count} of {len(rows)} rows"
        )
    if kind == "random":
        return [rows[index] for index in sorted(rng.sample(range(len(rows)), count))]
    return list(rows[:count] if kind == "first" else rows[-count:])
