"""Read annotation lists with one clip a line, split by commas, tabs, semicolons or blanks.

The delimiter is detected in the first line, and so is a header: the first line is one if a cell is
a known column name, or if it has no digit (clips are numbered). ``read_quoted`` is for files with
quoted texts that may span lines, and reads Windows-1252 (cp1252) too.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from omni_rlvr.data.annotations.rows import read_text
from omni_rlvr.types import UserError

_DELIMITERS = (",", "\t", ";")


def read_list(path: Path, names: Mapping[str, Sequence[str]]) -> pa.Table:
    """Read a list of clips.

    Args:
        path: The file; it exists.
        names: Column -> what a header may call it. Without a header the first of these columns
            stands first in a line and the last one last.

    Returns:
        The columns of ``names`` as stripped text, and ``number``, the line of each row.

    Raises:
        UserError: The file is empty or not such a list; names the line.
    """
    text = read_text(path)
    first = next(line.strip() for line in text.split("\n") if line.strip())
    delimiter = _delimiter(first, " ")
    cells = first.split() if delimiter == " " else next(csv.reader([first], delimiter=delimiter))
    known = {name for called in names.values() for name in called}
    header = [cell.strip().casefold() for cell in cells]
    has_header = bool(known & set(header)) or not re.search("[0-9]", first)
    if has_header:
        places = {column: _place(header, called, path) for column, called in names.items()}
    else:
        places = dict(zip(names, (0, len(cells) - 1), strict=True))
    if len(set(places.values())) < len(names):
        raise UserError(f"{path}:1: {first!r} has one column; {', '.join(names)} are needed")
    lines = text.encode().split(b"\n")
    numbers = np.array([n for n, line in enumerate(lines, 1) if line.strip()], np.int64)
    if delimiter == " ":  # columns may be padded with several blanks
        lines = [b" ".join(line.split()) for line in lines]
    table = _read(path, b"\n".join(lines), delimiter, len(cells), int(numbers[0]) - 1 + has_header)
    columns = {
        column: pc.utf8_trim_whitespace(table[str(place)]) for column, place in places.items()
    }
    numbers = numbers[int(has_header) :]
    if len(numbers) != table.num_rows:  # a quoted text spans several lines
        numbers = np.arange(table.num_rows) + 1 + int(has_header)
    for column, cells_of in columns.items():
        if (row := pc.index(cells_of, "").as_py()) >= 0:
            raise UserError(f"{path}:{numbers[row]}: the {column} is blank")
    return pa.table({**columns, "number": pa.array(numbers)})


def read_quoted(
    path: Path,
    names: Mapping[str, Sequence[str]],
    optional: Mapping[str, Sequence[str]] | None = None,
) -> pa.Table:
    """Read a small csv file with a header; cells may be quoted, the encoding may be Windows-1252.

    Args:
        path: The file; it exists.
        names: Column -> what the header may call it.
        optional: The same for columns that need not be there. Where this is given, a row with more
            cells than the header is refused.

    Returns:
        The columns that are there as stripped text, and ``number``, the line of each row.

    Raises:
        UserError: The file is empty or not such a list; names the line.
    """
    text = read_text(path, western=True)
    delimiter = _delimiter(text.partition("\n")[0], ",")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    header = [name.strip().casefold() for name in reader.fieldnames or ()]
    reader.fieldnames = header
    found = {c: called for c, called in (optional or {}).items() if {*called} & {*header}}
    places = {
        column: header[_place(header, called, path)]
        for column, called in {**names, **found}.items()
    }
    columns: dict[str, list] = {column: [] for column in (*places, "number")}
    for row in reader:
        if optional is not None and None in row:
            raise UserError(
                f"{path}:{reader.line_num}: the row has {len(header) + len(row[None])} cells, but "
                f"the header {len(header)}; put a text that contains {delimiter!r} in double quotes"
            )
        for column, name in places.items():
            if row[name] is None:
                raise UserError(f"{path}:{reader.line_num}: the column {name} is missing")
            columns[column].append(row[name].strip())
        columns["number"].append(reader.line_num)
    if not columns["number"]:
        raise UserError(f"{path}: holds a header and no rows")
    return pa.table(columns)


def find(root: Path, patterns: Sequence[str], values: Mapping[str, object], key: str) -> Path:
    """Return the first file that exists; releases of one data set name their files differently.

    Args:
        root: The data set's folder.
        patterns: Paths below it, with ``{name}`` where one of ``values`` goes.
        values: Name -> the value to fill in.
        key: The option that sets another path, for the message.

    Raises:
        UserError: None of the files exists.
    """
    if not root.is_dir():
        raise UserError(f"dataset.root={root}: there is no such folder; set it to the data set's")
    paths = [root / _filled(pattern, values) for pattern in patterns]
    for path in paths:
        if path.is_file():
            return path
    looked = ", ".join(str(path.relative_to(root)) for path in paths)
    raise UserError(
        f"dataset.root={root}: no annotation file is there (looked for {looked}); set {key}"
    )


def _filled(pattern: str, values: Mapping[str, object]) -> str:
    for name, value in values.items():
        pattern = pattern.replace(f"{{{name}}}", str(value))
    return pattern


def _delimiter(first: str, usual: str) -> str:
    """Detect the delimiter in the first line; ``usual`` if none of ``_DELIMITERS`` is in it."""
    return next((sign for sign in _DELIMITERS if sign in first), usual)


def _place(header: Sequence[str], called: Sequence[str], path: Path) -> int:
    for name in called:
        if name in header:
            return header.index(name)
    raise UserError(
        f"{path}:1: no column is called {' or '.join(called)}; there is {', '.join(header)}"
    )


def _read(path: Path, data: bytes, delimiter: str, num_columns: int, num_skipped: int) -> pa.Table:
    names = [str(place) for place in range(num_columns)]
    try:
        table = pa.csv.read_csv(
            io.BytesIO(data),
            read_options=pa.csv.ReadOptions(column_names=names, skip_rows=num_skipped),
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a list of {num_columns} columns: {error}") from error
    if not table.num_rows:
        raise UserError(f"{path}: holds a header and no rows")
    return table
