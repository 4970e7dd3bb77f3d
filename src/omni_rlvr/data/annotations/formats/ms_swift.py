"""ms-swift's rows: messages of plain text with ``<video>`` and ``<audio>`` tags, media beside.

``{"messages": [{"role", "content"}, ...], "videos": [path], "audios": [path], "solution": text}``.
What is learnt is the assistant's turn; a row for RL may have a ``solution`` (or ``answer``)
instead. With both, they must give the same answer. A system message is dropped: what the system
says belongs to a checkpoint's chat template. ``rejected_response`` and other keys are left alone.
"""

from __future__ import annotations

from typing import Any

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

_MEDIA = {"video": "videos", "audio": "audios"}


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str


class _Row(msgspec.Struct, gc=False):
    messages: list[_Message]
    videos: list[str] | str | None = None
    audios: list[str] | str | None = None
    images: Any = None
    solution: str | None = None
    answer: str | None = None
    id: str | int | None = None


def _quick(row: _Row) -> Record | None:
    said = plain_turns(row.messages)
    if said is None or row.images:
        return None
    videos, audios = _list(row.videos), _list(row.audios)
    if len(videos) > 1 or len(audios) > 1:
        return None
    question, answer = said[0].content, said[1].content if len(said) > 1 else None
    if (not videos and "<video>" in question) or (not audios and "<audio>" in question):
        return None
    target = plain_target(answer, row.answer if row.solution is None else row.solution)
    if target is None:
        return None
    video, audio = videos[0] if videos else None, audios[0] if audios else None
    return Record(question, target, video, audio, plain_id(row.id))


def _list(paths: list[str] | str | None) -> list[str]:
    return [paths] if isinstance(paths, str) else paths or []


def _strict(row: Row) -> Record:
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
            raise UserError(f"{row.source}: the text holds <{name}>, but {_MEDIA[name]} is empty")
    target = target_of(row, answer)
    return Record(question, target, media["video"], media["audio"], own_id(row))


def _path(row: Row, key: str) -> str | None:
    given = row.value.get(key)
    paths = [given] if isinstance(given, str) else given or []
    if not isinstance(paths, list) or not all(isinstance(p, str) and p.strip() for p in paths):
        raise UserError(f"{row.source}: {key} is {given!r}, not a list of paths")
    if len(paths) > 1:
        raise UserError(f"{row.source}: {key} holds {len(paths)} paths; one a row can be read")
    return paths[0] if paths else None


MS_SWIFT = Form(_Row, _quick, _strict)
