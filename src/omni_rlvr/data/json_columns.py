"""JSON annotations as Arrow columns without a Python object a row: the quick way in.

``read`` gives None wherever a file is not plainly what the schema says, be it wrong or only
unusual: the caller then goes through ``manifest.iterate``, which is slow and words the error. A
JSON list is cut into blocks of whole rows, each parsed as one document ``{"rows": [...]}``; a cut
at a wrong place leaves a block that does not parse, so it can never go unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json

_BLOCK_BYTES = 8 << 20
_MAX_BLOCK_BYTES = 2**31 - 1024
_OPEN, _CLOSE = b'{"rows":[', b"]}"
_MAX_GAP_BYTES = 4096  # white space between two rows
_COMMA = re.compile(rb",\s*$")
_FIRST_KEY = re.compile(rb'\s*\[\s*(\{\s*"[^"\\]*")')


def read(path: Path, schema: pa.Schema) -> pa.Table | None:
    """Read a ``.json`` or ``.jsonl`` file.

    Args:
        path: The annotation file; it exists.
        schema: The keys to read; others are ignored.

    Returns:
        The columns of ``schema``, null where a key is missing, and ``number``, the row's index (a
        list) or line; None if the file must be read strictly.
    """
    try:
        table = _read_list(path, schema) if path.suffix.lower() == ".json" else _lines(path, schema)
        if table is not None:
            table.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError, OSError):
        return None  # nothing is lost: the strict way reads the file too, and words what is wrong
    return table if table is not None and table.num_rows else None


def line_numbers(path: Path) -> np.ndarray:
    """The numbers of the lines that are not blank, from 1."""
    with path.open("rb") as file:
        return np.fromiter((n for n, line in enumerate(file, 1) if line.strip()), np.int64)


def _options(schema: pa.Schema) -> pa.json.ParseOptions:
    return pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")


def _lines(path: Path, schema: pa.Schema) -> pa.Table | None:
    how = pa.json.ReadOptions(block_size=_BLOCK_BYTES)
    table = pa.json.read_json(path, read_options=how, parse_options=_options(schema))
    numbers = line_numbers(path)
    if len(numbers) != table.num_rows:  # two rows on a line, or one on two
        return None
    return table.select(schema.names).append_column("number", pa.array(numbers))


def _read_list(path: Path, schema: pa.Schema) -> pa.Table | None:
    blocks = [_parse(block, schema) for block in _blocks(path)]
    if not blocks or any(block is None for block in blocks):
        return None
    table = pa.Table.from_batches([block for block in blocks if block is not None], schema)
    return table.append_column("number", pa.array(np.arange(table.num_rows)))


def _parse(block: memoryview, schema: pa.Schema) -> pa.RecordBatch | None:
    """Parse comma-separated objects."""
    document = b"".join((_OPEN, block, _CLOSE))
    if len(document) > _MAX_BLOCK_BYTES:
        return None
    table = pa.json.read_json(
        pa.BufferReader(document),
        read_options=pa.json.ReadOptions(block_size=len(document) + 1, use_threads=False),
        parse_options=_options(pa.schema([("rows", pa.list_(pa.struct(schema)))])),
    )
    rows = table["rows"].combine_chunks()
    if table.num_rows != 1 or rows.null_count or rows.values.null_count or not len(rows.values):
        return None  # the text closed the document itself, or a row is null, or there is none
    return pa.RecordBatch.from_struct_array(rows.values)


def _blocks(path: Path) -> Iterator[memoryview]:
    """Cut the text between the brackets of a list into blocks of whole rows.

    Rows of a file mostly begin alike, with the same first key; a cut is made before such a
    beginning. Text that goes on after the list leaves its bracket in the last block, which then
    does not parse.
    """
    with path.open("rb") as file:
        text = file.read(_BLOCK_BYTES)
        head = _FIRST_KEY.match(text)
        if head is None:
            return
        text = text[head.start(1) :]
        while more := file.read(_BLOCK_BYTES):
            cut = text.rfind(head[1])
            comma = _COMMA.search(text, max(0, cut - _MAX_GAP_BYTES), cut) if cut > 0 else None
            if comma is not None:
                yield memoryview(text)[: comma.start()]
                text = text[cut:] + more
            else:
                text += more
    text = text.rstrip()
    yield memoryview(text)[:-1] if text.endswith(b"]") else memoryview(_CLOSE)  # no list: refused
