"""Read the fields that several forms share: the id, the turns by role, and the solution."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

from omni_rlvr.data.annotations.rows import Row
from omni_rlvr.data.annotations.validate import read_answer
from omni_rlvr.text.parse import normalise_label
from omni_rlvr.types import UserError

SYSTEM = ("system", "developer")
TOOLS = (
    "tool", "tool_call", "tool_response", "function", "function_call", "observation", "ipython",
)  # fmt: skip
_SPOKEN = (["user"], ["user", "assistant"])
_THOUGHT = re.compile(r"\s*<think>[^<]*</think>\s*<answer>\s*([^<\s][^<]*)</answer>\s*")


def own_id(row: Row) -> str | None:
    """Return the id that a row gives itself, or None."""
    given = row.value.get("id")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, str | int) or not str(given).strip():
        raise UserError(f"{row.source}: id is {given!r}, not a string")
    return str(given)


def keys_of(value: Mapping[str, object]) -> str:
    """List the keys of an object for a message."""
    return ", ".join(value) or "no key"


def num_system(roles: Sequence[str]) -> int:
    """Count the system turns at the beginning.

    They are not read: the system prompt comes from the checkpoint's chat template.
    """
    for i, role in enumerate(roles):
        if role not in SYSTEM:
            return i
    return len(roles)


def odd_role(role: str) -> str:
    """Say what is wrong with a role that cannot be read where it stands."""
    if role in SYSTEM:
        return f"a turn of {role!r} may only come before the question, where it is ignored"
    if role in TOOLS:
        return f"{role!r} is a tool turn; training on conversations with tools is not supported"
    wanted = "" if role == role.strip().lower() else " (roles are written in small letters)"
    return f"unknown role {role!r}{wanted}"


def contents(row: Row) -> list[object]:
    """Return the content of the user's turn and, if there is one, of the assistant's."""
    given = row.value.get("messages")
    if not isinstance(given, list) or not given:
        raise UserError(
            f"{row.source}: messages is {given!r}, not a list; there is {keys_of(row.value)}"
        )
    for index, turn in enumerate(given):
        if not isinstance(turn, dict) or "role" not in turn or "content" not in turn:
            raise UserError(
                f"{row.source}: messages[{index}] is {turn!r}, not an object with role and content"
            )
    roles = [str(turn["role"]) for turn in given]
    first = num_system(roles)
    spoken = roles[first:]
    if spoken not in _SPOKEN:
        odd = next((f"{odd_role(r)}; " for r in spoken if r not in _SPOKEN[-1]), "")
        raise UserError(
            f"{row.source}: the roles are {', '.join(roles)}; {odd}a row must have one user turn, "
            "then at most one assistant turn"
        )
    return [turn["content"] for turn in given[first:]]


def target_of(row: Row, answer: object) -> str:
    """Return the training target: the assistant's turn, or else the solution.

    Raises:
        UserError: Neither is given, one is not a string, or their answers differ.
    """
    solution = row.value.get("solution")
    solution = row.value.get("answer") if solution is None else solution
    for name, text in (("the assistant's content", answer), ("solution", solution)):
        if text is not None and not isinstance(text, str):
            several = "; write several labels as 'happy, sad'" if isinstance(text, list) else ""
            raise UserError(f"{row.source}: {name} is {text!r}, not a string{several}")
    if answer is None and solution is None:
        raise UserError(f"{row.source}: there is neither an assistant turn nor a solution")
    if answer is not None and solution is not None:
        said, gold = _read(str(answer), row), _read(str(solution), row)
        if not _agree(said, gold):
            raise UserError(
                f"{row.source}: the assistant says {said!r}, the solution {gold!r}; leave one out"
            )
    return str(solution if answer is None else answer)


def _agree(said: str, gold: str) -> bool:
    return said == gold or normalise_label(said) == normalise_label(gold)


@functools.lru_cache(maxsize=1024)  # solutions are few
def _known_answer(text: str) -> str:
    thought = _THOUGHT.fullmatch(text)  # the usual layout, parsed faster than by ``read_answer``
    return thought[1].strip() if thought else read_answer(text)


def _read(text: str, row: Row) -> str:
    try:
        return _known_answer(text)
    except UserError as error:
        raise UserError(f"{row.source}: {error}") from None
