"""ms-swift's records: messages of plain text with ``<video>`` and ``<audio>`` tags, media beside.

``{"messages": [{"role", "content"}, ...], "videos": [path], "audios": [path], "solution": text}``.
A system message is dropped: what the system says belongs to a checkpoint's chat template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from omni_rlvr.data.forms import Record, read_json
from omni_rlvr.data.manifest import Row
from omni_rlvr.data.readers.r1_omni import all_in, own_id, pairs
from omni_rlvr.data.records import read_answer, spellings
from omni_rlvr.data.table import ExampleTable
from omni_rlvr.types import UserError

_MEDIA = {"video": "videos", "audio": "audios"}


class MsSwiftReader:
    """Reads one question about at most one video and one sound.

    What is learnt is the assistant's turn; a row for RL may have a ``solution`` instead. With both,
    they must give the same answer.

    Args:
        annotations: A ``.json``, ``.jsonl`` or ``.yaml`` file, see ``mixture.parts``.
        root: The folder that ``videos`` and ``audios`` are relative to; they cannot leave it.
        labels: The answers that may occur; None for any.
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
        """Read and validate every record."""
        return read_json(self._annotations, Tagged(), self._root, self._labels, self._seed)


class Tagged:
    """The form of ms-swift's rows."""

    schema = pa.schema(
        [
            (
                "messages",
                pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
            ),
            *((name, pa.list_(pa.string())) for name in _MEDIA.values()),
            ("images", pa.null()),
            ("solution", pa.string()),
            ("id", pa.string()),
        ]
    )

    def columns(self, rows: pa.RecordBatch) -> Mapping[str, pa.Array] | None:
        """See ``forms.Form``: rows of a user's turn and either an assistant's or a solution."""
        has_solution = rows["solution"].null_count == 0
        if not has_solution and rows["solution"].null_count < len(rows):
            return None
        turns = pairs(rows["messages"], 1 if has_solution else 2)
        media = {name: _only(rows[key]) for name, key in _MEDIA.items()}
        if turns is None or any(column is None for column in media.values()):
            return None
        roles = [turn.field("role") for turn in turns]
        texts = [turn.field("content") for turn in turns]
        if any(column.null_count for column in (*roles, *texts)):
            return None
        if not all(all_in(c, [r]) for c, r in zip(roles, ("user", "assistant"), strict=False)):
            return None
        for name, column in media.items():
            tagged = pc.match_substring(texts[0], f"<{name}>")
            if pc.any(pc.and_(tagged, pc.is_null(column))).as_py():
                return None
        target = rows["solution"] if has_solution else texts[1]
        return {"question": texts[0], "target": target, "id": rows["id"], **media}

    def record(self, row: Row) -> Record:
        """See ``forms.Form``."""
        turns = messages(row)
        for _, content in turns:
            if not isinstance(content, str):
                raise UserError(
                    f"{row.source}: the content {content!r} is not a string; for lists of items "
                    "use dataset=messages"
                )
        question, answer = str(turns[0][1]), turns[1][1] if len(turns) > 1 else None
        if row.value.get("images"):
            raise UserError(f"{row.source}: images cannot be read; give a video")
        media = {name: _path(row, key) for name, key in _MEDIA.items()}
        for name, path in media.items():
            if f"<{name}>" in question and path is None:
                raise UserError(
                    f"{row.source}: the text holds <{name}>, but {_MEDIA[name]} is empty"
                )
        target = target_of(row, answer)
        return Record(question, target, media["video"], media["audio"], own_id(row))


def messages(row: Row) -> list[tuple[str, object]]:
    """The user's turn and, if there is one, the assistant's: (role, content)."""
    given = row.value.get("messages")
    if not isinstance(given, list) or not given:
        keys = ", ".join(row.value) or "no key"
        raise UserError(f"{row.source}: messages is {given!r}, not a list; there is {keys}")
    for index, turn in enumerate(given):
        if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
            raise UserError(
                f"{row.source}: messages[{index}] is {turn!r}, not an object with role and content"
            )
    turns = [(str(turn["role"]), turn["content"]) for turn in given]
    spoken = turns[1:] if turns[0][0] == "system" else turns
    if [role for role, _ in spoken] not in (["user"], ["user", "assistant"]):
        raise UserError(
            f"{row.source}: the roles are {', '.join(role for role, _ in turns)}; one user turn "
            "and at most one assistant turn after it can be learnt from"
        )
    return spoken


def target_of(row: Row, answer: object) -> str:
    """What is learnt: the assistant's turn, or else the solution."""
    solution = row.value.get("solution", row.value.get("answer"))
    for name, text in (("the assistant's content", answer), ("solution", solution)):
        if text is not None and not isinstance(text, str):
            raise UserError(f"{row.source}: {name} is {text!r}, not a string")
    if answer is None and solution is None:
        raise UserError(f"{row.source}: there is neither an assistant turn nor a solution")
    if answer is not None and solution is not None:
        said, gold = _read(str(answer), row), _read(str(solution), row)
        if said != gold:
            raise UserError(
                f"{row.source}: the assistant says {said!r}, the solution {gold!r}; leave one out"
            )
    return str(solution if answer is None else answer)


def _read(text: str, row: Row) -> str:
    try:
        return read_answer(text)
    except UserError as error:
        raise UserError(f"{row.source}: {error}") from None


def _only(lists: pa.ListArray) -> pa.Array | None:
    """The items of lists of at most one, null for none; None if one is longer."""
    lengths = pc.fill_null(lists.value_lengths(), 0)
    if pc.any(pc.greater(lengths, 1)).as_py():
        return None
    items = lists.flatten()
    if items.null_count:
        return None
    places = pc.subtract(pc.cumulative_sum(lengths), 1)
    return items.take(pc.if_else(pc.equal(lengths, 1), places, pa.scalar(None, places.type)))


def _path(row: Row, key: str) -> str | None:
    given = row.value.get(key)
    paths = [given] if isinstance(given, str) else given or []
    if not isinstance(paths, list) or not all(isinstance(p, str) and p.strip() for p in paths):
        raise UserError(f"{row.source}: {key} is {given!r}, not a list of paths")
    if len(paths) > 1:
        raise UserError(f"{row.source}: {key} holds {len(paths)} paths; one a row can be read")
    return paths[0] if paths else None
