"""Reads JSON annotations of a given form to raw columns: quickly where all is plain, else strictly.

A form knows how its rows are laid out, twice: as a type that rows are decoded to, giving up at the
first oddity, and as a function of any JSON object, wording the error. Both must see the same in a
file that is right.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import msgspec
import numpy as np
import pyarrow as pa

from omni_rlvr.data.annotations import json_blocks
from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.data.annotations.rows import Row, iterate, place
from omni_rlvr.data.annotations.sources import Part, parts
from omni_rlvr.data.annotations.validate import RAW, files, to_examples
from omni_rlvr.types import UserError

_BATCH = 10_000
"""Rows that are Python objects at one time, on the strict way."""
_TEXTS = pa.schema([field for field in RAW if field.name not in ("file", "number")])

T = TypeVar("T", bound=msgspec.Struct)


class Record(msgspec.Struct, frozen=True, gc=False):
    """One annotation as it stands: not yet cleaned, nor held against labels or root."""

    question: str
    target: str
    video: str | None
    audio: str | None
    id: str | None = None
    cues: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Form(Generic[T]):
    """A layout of JSON annotations."""

    row: type[T]
    """What a plain row is decoded to."""
    quick: Callable[[T], Record | None]
    """The record of such a row; None if it needs a closer look."""
    strict: Callable[[Row], Record]
    """The same of any row, or the error that says what is wrong with it."""


def read_json(
    annotations: Path, form: Form[Any], root: Path, labels: Sequence[str] | None, seed: int
) -> ExampleTable:
    """Read and validate an annotation file or mixture.

    Args:
        annotations: A ``.json``, ``.jsonl`` or ``.yaml`` file, see ``mixture.parts``.
        form: How a row is laid out.
        root: The folder that clips are relative to.
        labels: The answers that may occur; None for any.
        seed: Decides what ``random:N`` of a mixture draws.

    Raises:
        UserError: Something in the files is not as described; names the file and line.
    """
    raw = pa.concat_tables(_picked(part, form) for part in parts(annotations, seed=seed))
    return to_examples(raw, root, labels, {})


def _picked(part: Part, form: Form[Any]) -> pa.Table:
    raw = _quick(part.path, form) or _table(part.path, _strict(part.path, form))
    rows = part.pick(raw.num_rows)
    return raw if len(rows) == raw.num_rows else raw.take(pa.array(rows, pa.int64()))


def _quick(path: Path, form: Form[Any]) -> pa.Table | None:
    """All rows; None if the file must be read strictly: what is wrong is worded there."""
    try:
        table = _table(path, _plain(path, form))
    except json_blocks.NOT_PLAIN:
        return None
    return table if table.num_rows else None


def _plain(path: Path, form: Form[Any]) -> Iterator[tuple[Sequence[Record], Sequence[int]]]:
    for rows, numbers in json_blocks.typed_rows(path, form.row):
        records = [record for row in rows if (record := form.quick(row)) is not None]
        if len(records) < len(rows):
            raise json_blocks.NotPlain("a row needs a closer look")
        yield records, numbers


def _strict(path: Path, form: Form[Any]) -> Iterator[tuple[Sequence[Record], Sequence[int]]]:
    rows = iterate(path)
    while some := list(itertools.islice(rows, _BATCH)):
        yield [form.strict(row) for row in some], [row.number for row in some]


def _table(path: Path, blocks: Iterator[tuple[Sequence[Record], Sequence[int]]]) -> pa.Table:
    batches, places = [], [np.zeros(0, np.int64)]
    for records, numbers in blocks:
        try:
            batches.append(_batch(records))
        except UnicodeEncodeError:
            _refuse_half_a_character(records, path, numbers)
        places.append(np.asarray(numbers, np.int64))
    table = pa.Table.from_batches(batches, _TEXTS)
    table = table.append_column(RAW.field("file"), files(path, table.num_rows))
    return table.append_column(RAW.field("number"), pa.array(np.concatenate(places)))


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
