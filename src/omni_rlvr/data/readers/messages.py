"""Chat records whose content is a list of items, as Qwen's and TRL's conversations are.

``{"messages": [{"role": "user", "content": [{"type": "video", "video": path}, {"type": "audio",
"audio": path}, {"type": "text", "text": ...}]}, {"role": "assistant", "content": ...}]}``, with a
``solution`` or ``answer`` where there is no assistant turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from omni_rlvr.data.forms import Record, read_json
from omni_rlvr.data.manifest import Row
from omni_rlvr.data.readers.ms_swift import messages, target_of
from omni_rlvr.data.readers.r1_omni import own_id
from omni_rlvr.data.records import spellings
from omni_rlvr.data.table import ExampleTable
from omni_rlvr.types import UserError

_TYPES = ("video", "audio", "text")


class MessagesReader:
    """Reads one question about at most one video and one sound.

    Args:
        annotations: A ``.json``, ``.jsonl`` or ``.yaml`` file, see ``mixture.parts``.
        root: The folder that the clips are relative to; they cannot leave it.
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
        return read_json(self._annotations, Items(), self._root, self._labels, self._seed)


class Items:
    """The form of such rows. A content is text here and a list there: no column can hold it."""

    schema = None

    def columns(self, rows: pa.RecordBatch) -> Mapping[str, pa.Array] | None:
        """See ``forms.Form``: never."""
        return None

    def record(self, row: Row) -> Record:
        """See ``forms.Form``."""
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
    for item in (
        [{"type": "text", "text": content}] if isinstance(content, str) else _list(content, row)
    ):
        name = item.get("type") if isinstance(item, dict) else None
        if name not in _TYPES:
            raise UserError(f"{row.source}: {item!r} is not an item of type {', '.join(_TYPES)}")
        value = item.get(name)
        if not isinstance(value, str):
            raise UserError(f"{row.source}: the key {name} of {item!r} is not a string")
        found[name].append(value)
    return found


def _list(content: object, row: Row) -> list:
    if not isinstance(content, list):
        raise UserError(
            f"{row.source}: the content {content!r} is neither text nor a list of items"
        )
    return content


def _only(paths: Sequence[str], name: str, row: Row) -> str | None:
    if len(paths) > 1:
        raise UserError(f"{row.source}: there are {len(paths)} {name} items; one a row can be read")
    return paths[0].removeprefix("file://") if paths else None
