"""Many examples as Arrow columns: an ``Example`` is made when it is asked for.

As Python objects, a million annotations would take gigabytes and seconds. ``validate`` has checked
the columns; a slice is a view and copies nothing. Making an ``Example`` looks its clip up on the
disk, which takes minutes for a million clips on a network disk; ``distinct`` and ``texts`` avoid it
where no clip is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from omni_rlvr.data.annotations.rows import place
from omni_rlvr.media.files import located
from omni_rlvr.types import Example

TEXTS = ("id", "question", "answer", "target", "video", "audio", "cues")
"""Columns of strings. Paths are relative to the root; ``cues`` is a JSON object; the last three may
be null."""
_PLACE = ("file", "number")
_BATCH = 2_000
"""Rows converted to Python objects at a time while iterating."""


class ExampleTable(Sequence[Example]):
    """A sequence of examples over Arrow columns.

    Args:
        columns: The columns ``TEXTS``, and ``file`` and ``number``, the row's place in the
            annotations (see ``rows.place``).
        root: The folder in front of every path.
        left_out: Official label -> number of rows that the label map leaves out.
        locate: Whether to spell paths as they are on the disk (see ``media.files.located``) or as
            annotated.
    """

    def __init__(
        self, columns: pa.Table, root: Path, left_out: Mapping[str, int], *, locate: bool = True
    ) -> None:
        self.columns = columns
        self.root = root
        self.left_out = dict(left_out)
        self.locate = locate

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> ExampleTable: ...

    def __getitem__(self, index: int | slice) -> Example | ExampleTable:
        if isinstance(index, slice):
            rows = range(len(self))[index]
            if rows.step == 1:
                part = self.columns.slice(rows.start, len(rows))
            else:
                part = self.columns.take(pa.array(rows, pa.int64()))
            return self._of(part)
        row = range(len(self))[index]  # IndexError where there is none
        return self._example(*(self.columns[name][row].as_py() for name in (*TEXTS, *_PLACE)))

    def __iter__(self) -> Iterator[Example]:
        for row in _rows(self.columns, (*TEXTS, *_PLACE)):
            yield self._example(*row)

    def first_of_each(self, names: Sequence[str]) -> ExampleTable:
        """Return the first example of each combination of values, with paths as annotated."""
        codes = np.zeros(len(self), np.int64)
        for name in names:
            encoded = _encoded(self.columns[name])
            # -1 stands for null
            words = np.concatenate([c.indices.fill_null(-1).to_numpy() for c in encoded.chunks])
            codes = codes * (len(encoded.chunk(0).dictionary) + 1) + words + 1
        _, first = np.unique(codes, return_index=True)
        return self._of(self.columns.take(pa.array(np.sort(first))), locate=False)

    def _of(self, columns: pa.Table, *, locate: bool | None = None) -> ExampleTable:
        locate = self.locate if locate is None else locate
        return ExampleTable(columns, self.root, self.left_out, locate=locate)

    def _example(
        self,
        name: str,
        question: str,
        answer: str,
        target: str,
        video: str | None,
        audio: str | None,
        cues: str | None,
        file: str,
        number: int | None,
    ) -> Example:
        return Example(
            id=name,
            question=question,
            answer=answer,
            target=target,
            video=None if video is None else self._path(video),
            audio=None if audio is None else self._path(audio),
            cues={} if cues is None else json.loads(cues),
            source=place(file, number),
        )

    def _path(self, name: str) -> Path:
        path = self.root / name
        return located(path) if self.locate else path


def _rows(columns: pa.Table, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for start in range(0, columns.num_rows, _BATCH):
        part = columns.slice(start, _BATCH)
        yield from zip(*(part[name].to_pylist() for name in names), strict=True)


def _encoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dictionary-encode a column with one dictionary for all its chunks.

    Strings are first combined into one chunk: Arrow would otherwise build, for each chunk, a
    dictionary of all chunks so far.
    """
    if not pa.types.is_dictionary(column.type):
        column = pa.chunked_array([column.cast(pa.large_string()).combine_chunks()])
    return column.dictionary_encode().unify_dictionaries()


def source(columns: pa.Table, row: int) -> str:
    """Say in which file, and where in it, a row was annotated."""
    return place(columns["file"][row].as_py(), columns["number"][row].as_py())


def suspects(examples: Sequence[Example], words: Sequence[str]) -> Sequence[int]:
    """Return the rows whose question or target contains one of the words; all rows of a list.

    A cheap first filter: only these rows need a closer look.
    """
    if not isinstance(examples, ExampleTable) or not words:
        return range(len(examples))
    found = pa.chunked_array([np.zeros(len(examples), bool)])
    pattern = "|".join(map(re.escape, words))
    for name in ("question", "target"):
        column = examples.columns[name]
        if pa.types.is_dictionary(column.type):
            encoded = _encoded(column)
            hits = pc.match_substring_regex(encoded.chunk(0).dictionary, pattern)
            found = pc.or_(found, pa.chunked_array([hits.take(c.indices) for c in encoded.chunks]))
        else:
            found = pc.or_(found, pc.match_substring_regex(column, pattern))
    return pc.indices_nonzero(found).to_pylist()


def distinct(
    examples: Sequence[Example], by: Sequence[str] = ("answer", "target")
) -> Sequence[Example]:
    """Return the first example of each combination of values; all examples of a list."""
    return examples.first_of_each(by) if isinstance(examples, ExampleTable) else examples


def texts(examples: Sequence[Example]) -> Iterator[tuple[str, str, str, str]]:
    """Iterate over the id, question, answer and target of every example."""
    if isinstance(examples, ExampleTable):
        yield from _rows(examples.columns, TEXTS[:4])
        return
    for example in examples:
        yield example.id, example.question, example.answer, example.target
