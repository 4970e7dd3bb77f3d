"""R1-Omni's rows: a clip, and a conversation of one question and one answer about it.

``{video, audio, id, cues, conversations: [{from, value}, {from, value}]}``. A row needs ``video``,
``audio`` (replaces the sound of the video, if there is one) or both; ``id`` and ``cues`` are
optional; other keys are ignored. Cold-start rows (the assistant's turn has ``<think>`` and
``<answer>`` tags) and RL rows (it is a bare label) are read alike. System turns before the question
are dropped, as in the other forms.
"""

from __future__ import annotations

from collections.abc import Sequence

from omni_rlvr.data.annotations.formats.fields import (
    keys_of,
    num_system,
    odd_role,
    own_id,
)
from omni_rlvr.data.annotations.read import Record
from omni_rlvr.data.annotations.rows import Row
from omni_rlvr.types import UserError

_HUMAN, _ASSISTANT = ("human", "user"), ("gpt", "assistant")


def record(row: Row) -> Record:
    """Make the record of a row."""
    question, target = _conversation(row)
    return Record(
        question, target, _clip(row, "video"), _clip(row, "audio"), own_id(row), _cues(row)
    )


def _clip(row: Row, key: str) -> str | None:
    name = row.value.get(key)
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise UserError(f"{row.source}: {key} is {name!r}, not the path of a clip")
    return name


def _conversation(row: Row) -> tuple[str, str]:
    """Return the human turn and the assistant turn, as annotated."""
    if "conversations" not in row.value:
        raise UserError(
            f"{row.source}: the key conversations is missing; there is {keys_of(row.value)}"
        )
    turns = row.value["conversations"]
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{row.source}: conversations is {turns!r}, not a list of turns")
    before = num_system([_role(turn) for turn in turns])
    spoken = turns[before:]
    if len(spoken) % 2 or not spoken:
        for i, turn in enumerate(spoken):
            if not _role(turn):
                _turn(turn, _HUMAN, row, before + i)  # raises the error that names the missing key
        known = _HUMAN + _ASSISTANT
        odd = next((f": {odd_role(r)}" for r in map(_role, spoken) if r not in known), "")
        raise UserError(
            f"{row.source}: conversations has {len(spoken)} turns"
            f"{' after the system turn' if before else ''}; turns must come in pairs{odd}"
        )
    values = [
        _turn(turn, _ASSISTANT if i % 2 else _HUMAN, row, before + i)
        for i, turn in enumerate(spoken)
    ]
    if len(values) > 2:
        raise UserError(
            f"{row.source}: conversations has {len(values)} turns; a row must have one question "
            "and one answer; split it into rows of two turns"
        )
    return values[0], values[1]


def _role(turn: object) -> str:
    """Return the role of a turn, or "" if it has none; ``_turn`` raises the error for it."""
    return str(turn.get("from", "")) if isinstance(turn, dict) else ""


def _turn(turn: object, roles: Sequence[str], row: Row, index: int) -> str:
    """Return the text of a turn; raise an error if its role is not one of ``roles``."""
    if isinstance(turn, dict):
        role, value = turn.get("from"), turn.get("value")
        if role in roles and isinstance(value, str):
            return value
    raise UserError(f"{row.source}: conversations[{index}]{_what_lacks(turn, roles)}")


def _what_lacks(turn: object, roles: Sequence[str]) -> str:
    if not isinstance(turn, dict):
        return f" is {turn!r}, not an object with from and value"
    for key in ("from", "value"):
        if key not in turn:
            return f": the key {key} is missing; there is {keys_of(turn)}"
        if not isinstance(turn[key], str):
            return f": {key} is {turn[key]!r}, not a string"
    role: str = turn["from"]
    if role not in _HUMAN + _ASSISTANT:
        return f": {odd_role(role)}; known: {', '.join(_HUMAN + _ASSISTANT)}"
    return f": the turn of {role!r} must be one of {' or '.join(roles)}"


def _cues(row: Row) -> dict[str, str]:
    cues = row.value.get("cues")
    if cues is None:
        return {}
    if not isinstance(cues, dict) or not all(isinstance(value, str) for value in cues.values()):
        raise UserError(f"{row.source}: cues is {cues!r}, not an object of strings")
    return dict(cues)
