"""Chat rows whose content is a list of items, as Qwen's and TRL's conversations are.

``{"messages": [{"role": "user", "content": [{"type": "video", "video": path}, {"type": "audio",
"audio": path}, {"type": "text", "text": ...}]}, {"role": "assistant", "content": ...}]}``, with a
``solution`` or ``answer`` where there is no assistant turn. A clip may stand under ``path`` or
``url`` too, as transformers' chat templates have it, and begin with ``file://``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from omni_rlvr.data.annotations.formats.fields import (
    messages,
    own_id,
    plain_id,
    plain_target,
    plain_turns,
    target_of,
)
from omni_rlvr.data.annotations.read import Form, Record
from omni_rlvr.data.annotations.rows import Row
from omni_rlvr.types import UserError

_TYPES = ("video", "audio", "text")
_PLACES = ("path", "url")


class _Item(msgspec.Struct, gc=False):
    type: str
    text: str | None = None
    video: str | None = None
    audio: str | None = None
    path: str | None = None
    url: str | None = None


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str | list[_Item]


class _Row(msgspec.Struct, gc=False):
    messages: list[_Message]
    solution: str | None = None
    answer: str | None = None
    id: str | int | None = None


def _quick(row: _Row) -> Record | None:
    said = plain_turns(row.messages)
    asked = None if said is None else _plain_items(said[0].content)
    if said is None or asked is None:
        return None
    texts, videos, audios = asked
    answer = None
    if len(said) > 1:
        answered = _plain_items(said[1].content)
        if answered is None:
            return None
        answer = "\n".join(answered[0])
    target = plain_target(answer, row.answer if row.solution is None else row.solution)
    if target is None or len(videos) > 1 or len(audios) > 1:
        return None
    video, audio = videos[0] if videos else None, audios[0] if audios else None
    return Record("\n".join(texts), target, video, audio, plain_id(row.id))


def _plain_items(content: str | list[_Item]) -> tuple[list[str], list[str], list[str]] | None:
    """Texts, videos and sounds."""
    texts: list[str] = []
    videos: list[str] = []
    audios: list[str] = []
    if isinstance(content, str):
        return [content], videos, audios
    for item in content:
        match item.type:
            case "text":
                found, value = texts, item.text
            case "video":
                found, value = videos, _first(item.video, item.path, item.url)
            case "audio":
                found, value = audios, _first(item.audio, item.path, item.url)
            case _:
                return None
        if value is None:
            return None
        found.append(value)
    return texts, videos, audios


def _first(*places: str | None) -> str | None:
    name = next((place for place in places if place is not None), None)
    return None if name is None else name.removeprefix("file://")


def _strict(row: Row) -> Record:
    turns = messages(row)
    asked = _items(turns[0][1], row)
    answer = "\n".join(_items(turns[1][1], row)["text"]) if len(turns) > 1 else None
    return Record(
        question="\n".join(asked["text"]),
        target=target_of(row, answer),
        video=_only(asked["video"], "video", row),
        audio=_only(asked["audio"], "audio", row),
        id=own_id(row),
    )


def _items(content: object, row: Row) -> dict[str, list[str]]:
    """Type -> what the items of this type hold."""
    found: dict[str, list[str]] = {name: [] for name in _TYPES}
    for item in _list(content, row):
        name = item.get("type") if isinstance(item, dict) else None
        if name not in _TYPES:
            raise UserError(f"{row.source}: {item!r} is not an item of type {', '.join(_TYPES)}")
        value = next((item[key] for key in _keys(name) if item.get(key) is not None), None)
        if not isinstance(value, str):
            raise UserError(f"{row.source}: the key {name} of {item!r} is not a string")
        found[name].append(value)
    return found


def _keys(name: str) -> Sequence[str]:
    return (name,) if name == "text" else (name, *_PLACES)


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
        raise UserError(f"{row.source}: there are {len(paths)} {name} items; one a row can be read")
    return paths[0].removeprefix("file://") if paths else None


MESSAGES = Form(_Row, _quick, _strict)
