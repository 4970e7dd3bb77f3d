"""Read JSON annotations of a given form into a table of examples.

A form turns a row into a record, or raises an error that says what is wrong with the row. Records
become Arrow columns batch by batch, so that few of them exist as Python objects at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

import msgspec
import pyarrow as pa

from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.rows import Row, iterate, place
from omni_rlvr.data.annotations.sources import Source, sources
from omni_rlvr.data.annotations.validate import RAW, files, to_examples
from omni_rlvr.types import UserError

_BATCH = 2_000
"""Records that exist as Python objects at a time."""
_TEXTS = pa.schema([field for field in RAW if field.name not in ("file", "number")])


class Record(msgspec.Struct, frozen=True, gc=False):
    """One annotation as written: not yet cleaned or checked against the labels and the root."""

    question: str
    target: str
    video: str | None
    audio: str | None
    id: str | None = None
    cues: Mapping[str, str] | None = None


Form: TypeAlias = Callable[[Row], Record]
"""A layout of JSON annotations: makes the record of a row, or raises a UserError that names it."""


def read_json(
    annotations: Path, form: Form, root: Path, labels: Sequence[str] | None, seed: int
) -> ExampleTable:
    """Read and validate an annotation file or mixture.

    Args:
        annotations: A ``.json``, ``.jsonl`` or ``.yaml`` file, see ``sources``.
        form: How a row is laid out.
        root: The folder that clips are relative to.
        labels: The answers that may occur; None for any.
        seed: Decides what ``random:N`` of a mixture draws.

    Raises:
        UserError: Something in the files is not as described; names the file and line.
    """
    raw = pa.concat_tables(_picked(source, form) for source in sources(annotations, seed=seed))
    return to_examples(raw, root, labels, {})


def _picked(source: Source, form: Form) -> pa.Table:
    raw = _table(source.path, form)
    rows = source.pick(raw.num_rows)
    return raw if len(rows) == raw.num_rows else raw.take(pa.array(rows, pa.int64()))


def _table(path: Path, form: Form) -> pa.Table:
    batches, places, rows = [], [], iterate(path)
    while True:
        # A row is dropped as soon as its record is made: a dict takes ten times as much memory.
        some = [(row.number, form(row)) for row in itertools.islice(rows, _BATCH)]
        if not some:
            break
        numbers, records = zip(*some, strict=True)
        try:
            batches.append(_batch(records))
        except UnicodeEncodeError:
            _refuse_half_a_character(records, path, numbers)
        places.append(pa.array(numbers, pa.int64()))
    table = pa.Table.from_batches(batches, _TEXTS)
    table = table.append_column(RAW.field("file"), files(path, table.num_rows))
    return table.append_column(RAW.field("number"), pa.chunked_array(places, pa.int64()))


def _batch(records: Sequence[Record]) -> pa.RecordBatch:
    asked: dict[str, int] = {}
    codes = [asked.setdefault(record.question, len(asked)) for record in records]
    texts = {
        "target": [record.target for record in records],
        "video": [record.video for record in records],
        "audio": [record.audio for record in records],
        "id": [record.id for record in records],
        "cues": [msgspec.json.encode(r.cues) if r.cues else None for r in records],
    }
    questions = pa.array(list(asked), pa.string())
    question = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), questions)
    columns = {name: pa.array(values, pa.string()) for name, values in texts.items()}
    return pa.RecordBatch.from_pydict({"question": question, **columns})


def _refuse_half_a_character(
    records: Sequence[Record], path: Path, numbers: Sequence[int]
) -> NoReturn:
    for record, number in zip(records, numbers, strict=True):
        cues = record.cues or {}
        texts = (record.question, record.target, record.video, record.audio, record.id)
        for text in (*texts, *cues, *cues.values()):
            try:
                (text or "").encode()
            except UnicodeEncodeError:
                raise UserError(
                    f"{place(path, number)}: {text!r} holds half a character (a lone surrogate); "
                    "remove it"
                ) from None
    raise AssertionError("a text that cannot be encoded was not found")
