"""R1-Omni's annotation format: conversations of one question and one answer about a clip.

Reads cold-start files (the assistant thinks and answers in tags) and RL files (the assistant says a
bare label) alike. Everything is validated while reading and nothing is read from the clips: a wrong
line is found before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from omni_rlvr.data.forms import Record, read_json
from omni_rlvr.data.manifest import Row
from omni_rlvr.data.records import spellings
from omni_rlvr.data.table import ExampleTable
from omni_rlvr.types import UserError

_HUMAN, _ASSISTANT = ("human", "user"), ("gpt", "assistant")


class R1OmniReader:
    """Reads ``{video, audio, id, cues, conversations: [{from, value}, {from, value}]}``.

    ``video``, ``audio`` (a sidecar, or the only medium), ``id`` and ``cues`` are optional, though
    one medium must be there; other keys are left alone. An ``id`` that is left out is the clip's
    path as written, with ``#2``, ``#3`` added where a clip is annotated again; an ``id`` that is
    given twice is refused.

    Args:
        annotations: A ``.json``, ``.jsonl`` or ``.yaml`` file, see ``mixture.parts``.
        root: The folder that ``video`` and ``audio`` are relative to; they cannot leave it.
        labels: The answers that may occur, matched but for case, kept in this spelling; None for
            any.
        seed: Decides what ``random:N`` of a YAML mixture draws.
    """

    def __init__(
        self, annotations: str, root: str, labels: Sequence[str] | None, seed: int
    ) -> None:
        if labels is not None:
            spellings(labels)
        self._annotations = Path(annotations)
        self._root = Path(root)
        self._labels = labels
        self._seed = seed

    def read(self) -> ExampleTable:
        """Read and validate every annotation.

        Returns:
            Examples in file order, at least one, with unique ids.

        Raises:
            UserError: Something in the files is not as described; the message begins with the file
                and line.
        """
        return read_json(self._annotations, Conversations(), self._root, self._labels, self._seed)


class Conversations:
    """The form of R1-Omni's rows."""

    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("video", "audio", "id")),
            ("cues", pa.null()),
            (
                "conversations",
                pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())])),
            ),
        ]
    )

    def columns(self, rows: pa.RecordBatch) -> Mapping[str, pa.Array] | None:
        """See ``forms.Form``."""
        turns = pairs(rows["conversations"], 2)
        if turns is None:
            return None
        (asking, question), (answering, target) = (
            (turn.field("from"), turn.field("value")) for turn in turns
        )
        if any(column.null_count for column in (asking, question, answering, target)):
            return None
        if not (all_in(asking, _HUMAN) and all_in(answering, _ASSISTANT)):
            return None
        return {
            "question": question,
            "target": target,
            **{name: rows[name] for name in ("video", "audio", "id")},
        }

    def record(self, row: Row) -> Record:
        """See ``forms.Form``."""
        question, target = _conversation(row)
        return Record(
            question, target, clip(row, "video"), clip(row, "audio"), own_id(row), _cues(row)
        )


def pairs(lists: pa.ListArray, length: int) -> list[pa.StructArray] | None:
    """The first, second, ... items of lists that all have this length; None if one has another."""
    if lists.null_count or not pc.all(pc.equal(lists.value_lengths(), length)).as_py():
        return None
    items = lists.flatten()
    if items.null_count:
        return None
    return [items.take(pa.array(np.arange(i, len(items), length))) for i in range(length)]


def all_in(column: pa.Array, words: Sequence[str]) -> bool:
    """Whether a column holds nothing but these words."""
    return bool(pc.all(pc.is_in(column, pa.array(words))).as_py())


def clip(row: Row, key: str) -> str | None:
    """The path under a key as written, or None."""
    name = row.value.get(key)
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise UserError(f"{row.source}: {key} is {name!r}, not the path of a clip")
    return name


def _conversation(row: Row) -> tuple[str, str]:
    """The human turn and the assistant turn, as annotated."""
    if "conversations" not in row.value:
        raise UserError(
            f"{row.source}: the key conversations is missing; there is {_keys(row.value)}"
        )
    turns = row.value["conversations"]
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{row.source}: conversations is {turns!r}, not a list of turns")
    if len(turns) % 2:
        raise UserError(f"{row.source}: conversations has {len(turns)} turns; they come in pairs")
    values = [
        _turn(turn, _ASSISTANT if index % 2 else _HUMAN, f"{row.source}: conversations[{index}]")
        for index, turn in enumerate(turns)
    ]
    if len(values) > 2:
        raise UserError(
            f"{row.source}: conversations has {len(values)} turns; only one question and one "
            "answer can be learnt from; split it into rows of two turns"
        )
    return values[0], values[1]


def _turn(turn: object, roles: Sequence[str], source: str) -> str:
    if not isinstance(turn, dict):
        raise UserError(f"{source} is {turn!r}, not an object with from and value")
    for key in ("from", "value"):
        if key not in turn:
            raise UserError(f"{source}: the key {key} is missing; there is {_keys(turn)}")
        if not isinstance(turn[key], str):
            raise UserError(f"{source}: {key} is {turn[key]!r}, not a string")
    role: str = turn["from"]
    if role not in _HUMAN + _ASSISTANT:
        raise UserError(f"{source}: unknown role {role!r}; known: {', '.join(_HUMAN + _ASSISTANT)}")
    if role not in roles:
        raise UserError(f"{source}: the turn of {role!r} must be one of {' or '.join(roles)}")
    value: str = turn["value"]
    return value


def _keys(value: Mapping[str, object]) -> str:
    return ", ".join(value) or "no key"


def _cues(row: Row) -> dict[str, str]:
    cues = row.value.get("cues")
    if cues is None:
        return {}
    if not isinstance(cues, dict) or not all(isinstance(value, str) for value in cues.values()):
        raise UserError(f"{row.source}: cues is {cues!r}, not an object of strings")
    return dict(cues)


def own_id(row: Row) -> str | None:
    """The id that a row gives itself, or None."""
    given = row.value.get("id")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, str | int) or not str(given).strip():
        raise UserError(f"{row.source}: id is {given!r}, not a string")
    return str(given)
