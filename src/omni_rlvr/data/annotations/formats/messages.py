"""Chat rows whose content is a list of items, as Qwen's and TRL's conversations are.

``{"messages": [{"role": "user", "content": [{"type": "video", "video": path}, {"type": "audio",
"audio": path}, {"type": "text", "text": ...}]}, {"role": "assistant", "content": ...}]}``, with a
``solution`` or ``answer`` where there is no assistant turn. A clip may stand under ``path`` or
``url`` too, as transformers' chat templates have it, and begin with ``file://``.
"""

from __future__ import annotations

from collections.abc import Sequence

from omni_rlvr.data.annotations.formats.fields import (
    contents,
    own_id,
    target_of,
)
from omni_rlvr.data.annotations.read import Record
from omni_rlvr.data.annotations.rows import Row
from omni_rlvr.types import UserError

_TYPES = ("video", "audio", "text")


def record(row: Row) -> Record:
    """Make the record of a row."""
    turns = contents(row)
    asked = _items(turns[0], row)
    answer = "\n".join(_items(turns[1], row)["text"]) if len(turns) > 1 else None
    return Record(
        question="\n".join(asked["text"]),
        target=target_of(row, answer),
        video=_only(asked["video"], "video", row),
        audio=_only(asked["audio"], "audio", row),
        id=own_id(row),
    )


def _items(content: object, row: Row) -> dict[str, list[str]]:
    """Map each type of item to the values of its items, in order."""
    found: dict[str, list[str]] = {"video": [], "audio": [], "text": []}
    for item in _list(content, row):
        name = item.get("type") if isinstance(item, dict) else None
        if name not in _TYPES:
            raise UserError(f"{row.source}: {item!r} is not an item of type {', '.join(_TYPES)}")
        value = item.get(name)
        if value is None and name != "text":
            value = item.get("url") if item.get("path") is None else item["path"]
        if not isinstance(value, str):
            raise UserError(f"{row.source}: the key {name} of {item!r} is not a string")
        found[name].append(value)
    return found


def _list(content: object, row: Row) -> list:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise UserError(
            f"{row.source}: the content {content!r} is neither text nor a list of items"
        )
    return content


def _only(paths: Sequence[str], name: str, row: Row) -> str | None:
    if len(paths) > 1:
        raise UserError(f"{row.source}: there are {len(paths)} {name} items; a row can have one")
    return paths[0].removeprefix("file://") if paths else None
