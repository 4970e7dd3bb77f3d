"""ms-swift's rows: plain-text messages with ``<video>`` and ``<audio>`` tags, and lists of media.

``{"messages": [{"role", "content"}, ...], "videos": [path], "audios": [path], "solution": text}``.
The training target is the assistant's turn; a row for RL may have a ``solution`` (or ``answer``)
instead. If a row has both, they must give the same answer. A system message is dropped: the system
prompt comes from the checkpoint's chat template. ``rejected_response`` and other keys are ignored.
"""

from __future__ import annotations

from omni_rlvr.data.annotations.formats.fields import (
    contents,
    own_id,
    target_of,
)
from omni_rlvr.data.annotations.read import Record
from omni_rlvr.data.annotations.rows import Row
from omni_rlvr.types import UserError

_MEDIA = {"video": "videos", "audio": "audios"}


def record(row: Row) -> Record:
    """Make the record of a row."""
    turns = contents(row)
    for content in turns:
        if not isinstance(content, str):
            raise UserError(
                f"{row.source}: the content {content!r} is not a string; for lists of items "
                "use dataset=messages"
            )
    question, answer = str(turns[0]), turns[1] if len(turns) > 1 else None
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
    if not isinstance(paths, list) or [p for p in paths if not isinstance(p, str) or not p.strip()]:
        raise UserError(f"{row.source}: {key} is {given!r}, not a list of paths")
    if len(paths) > 1:
        raise UserError(f"{row.source}: {key} holds {len(paths)} paths; a row can have one")
    return paths[0] if paths else None
