"""Reads JSON annotations of a given form to raw columns: quickly where all is plain, else strictly.

A form knows how its rows are laid out, twice: over whole columns, giving up at the first oddity,
and over one row, wording the error. Both must see the same in a file that is right.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from omni_rlvr.data import json_columns
from omni_rlvr.data.manifest import Row, iterate
from omni_rlvr.data.mixture import Part, parts
from omni_rlvr.data.records import RAW, files, to_examples
from omni_rlvr.data.table import ExampleTable
from omni_rlvr.types import UserError

_BATCH = 10_000
"""Rows that are Python objects at one time."""


@dataclass(frozen=True)
class Record:
    """One annotation as it stands: not yet cleaned, nor held against labels or root."""

    question: str
    target: str
    video: str | None
    audio: str | None
    id: str | None = None
    cues: Mapping[str, str] = field(default_factory=dict)


class Form(Protocol):
    """A layout of JSON annotations."""

    schema: pa.Schema | None
    """The keys that ``columns`` reads; None if the form has no quick way."""

    def columns(self, rows: pa.RecordBatch) -> Mapping[str, pa.Array] | None:
        """Question, target, video, audio and id of many rows; None if one needs a closer look."""

    def record(self, row: Row) -> Record:
        """The same of one row, or the error that says what is wrong with it."""


def read_json(
    annotations: Path, form: Form, root: Path, labels: Sequence[str] | None, seed: int
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


def _picked(part: Part, form: Form) -> pa.Table:
    raw = _quick(part.path, form)
    if raw is None:
        raw = pa.Table.from_batches(list(_strict(part.path, form)), RAW)
    rows = part.pick(raw.num_rows)
    return raw if len(rows) == raw.num_rows else raw.take(pa.array(rows, pa.int64()))


def _quick(path: Path, form: Form) -> pa.Table | None:
    table = json_columns.read(path, form.schema) if form.schema is not None else None
    if table is None:
        return None
    batches = []
    for rows in table.to_batches():
        columns = form.columns(rows)
        if columns is None:
            return None
        whole = {
            **columns,
            "cues": pa.nulls(len(rows), pa.string()),
            "file": files(path, len(rows)),
            "number": rows["number"],
        }
        batches.append(pa.RecordBatch.from_pydict(whole, RAW))
    return pa.Table.from_batches(batches, RAW)


def _strict(path: Path, form: Form) -> Iterator[pa.RecordBatch]:
    rows = iterate(path)
    while some := list(itertools.islice(rows, _BATCH)):
        records = [form.record(row) for row in some]
        columns = {
            name: _texts([vars(record)[name] for record in records], some)
            for name in ("question", "target", "video", "audio", "id")
        }
        columns["cues"] = _texts([json.dumps(r.cues) if r.cues else None for r in records], some)
        columns["file"] = files(path, len(some))
        columns["number"] = pa.array([row.number for row in some], pa.int64())
        yield pa.RecordBatch.from_pydict(columns, RAW)


def _texts(values: Sequence[str | None], rows: Sequence[Row]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        lone = next(i for i, value in enumerate(values) if value and not _is_text(value))
        raise UserError(
            f"{rows[lone].source}: {values[lone]!r} holds half a character (a lone surrogate); "
            "remove it"
        ) from None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
