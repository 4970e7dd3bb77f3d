"""Many examples as Arrow columns: an ``Example`` is made when it is asked for.

A million annotations as Python objects take gigabytes and seconds; as columns, neither. What the
columns hold was validated by ``validate``; a slice is a view and copies nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from omni_rlvr.data.annotations.rows import place
from omni_rlvr.media.files import located
from omni_rlvr.types import Example

TEXTS = ("id", "question", "answer", "target", "video", "audio", "cues")
"""Columns of strings. Paths are relative to the root; ``cues`` is a JSON object; the last three may
be null."""


class ExampleTable(Sequence[Example]):
    """A sequence of examples over Arrow columns.

    Args:
        columns: The columns ``TEXTS``, and where a row stands: ``file`` and ``number`` (see
            ``rows.place``).
        root: The folder in front of every path.
        left_out: Label -> rows that its map leaves out of the data set.
    """

    def __init__(self, columns: pa.Table, root: Path, left_out: Mapping[str, int]) -> None:
        self.columns = columns
        self.root = root
        self.left_out = dict(left_out)

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
            return ExampleTable(part, self.root, self.left_out)
        row = range(len(self))[index]  # IndexError where there is none
        value = {name: self.columns[name][row].as_py() for name in TEXTS}
        return Example(
            id=value["id"],
            question=value["question"],
            answer=value["answer"],
            target=value["target"],
            video=None if value["video"] is None else located(self.root / value["video"]),
            audio=None if value["audio"] is None else located(self.root / value["audio"]),
            cues={} if value["cues"] is None else json.loads(value["cues"]),
            source=source(self.columns, row),
        )


def source(columns: pa.Table, row: int) -> str:
    """Says where a row was annotated."""
    return place(columns["file"][row].as_py(), columns["number"][row].as_py())


def suspects(examples: Sequence[Example], words: Sequence[str]) -> Sequence[int]:
    """Return the rows whose question or target holds one of the words."""
    if not isinstance(examples, ExampleTable) or not words:
        return range(len(examples))
    found = pa.chunked_array([np.zeros(len(examples), bool)])
    for name in ("question", "target"):
        encoded = examples.columns[name].dictionary_encode().unify_dictionaries()
        texts = encoded.chunk(0).dictionary
        hits = pc.match_substring_regex(texts, "|".join(map(re.escape, words)))
        if pc.any(hits).as_py():
            found = pc.or_(found, pa.chunked_array([hits.take(c.indices) for c in encoded.chunks]))
    return pc.indices_nonzero(found).to_pylist()


def distinct(examples: Sequence[Example]) -> Sequence[Example]:
    """One example, the first, of each pair of answer and target."""
    if not isinstance(examples, ExampleTable):
        return examples
    codes = np.zeros(len(examples), np.int64)
    for name in ("answer", "target"):
        encoded = examples.columns[name].dictionary_encode().unify_dictionaries()
        words = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
        codes = codes * len(encoded.chunk(0).dictionary) + words
    _, first = np.unique(codes, return_index=True)
    return ExampleTable(
        examples.columns.take(pa.array(np.sort(first))), examples.root, examples.left_out
    )
