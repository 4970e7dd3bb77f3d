"""What rows of several forms have: an id, turns by role, and a solution.

Each comes in two: of a typed row, None where it needs a closer look; of any row, with its error.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

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


class _Turn(Protocol):
    role: str


Spoken = TypeVar("Spoken", bound=_Turn)
T = TypeVar("T")


def plain_id(given: str | int | None) -> str | None:
    """The id that a typed row gives itself, or None."""
    return None if given is None else str(given)


def own_id(row: Row) -> str | None:
    """The id that a row gives itself, or None."""
    given = row.value.get("id")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, str | int) or not str(given).strip():
        raise UserError(f"{row.source}: id is {given!r}, not a string")
    return str(given)


def keys_of(value: Mapping[str, object]) -> str:
    """List the keys of an object for a message."""
    return ", ".join(value) or "no key"


def without_system(turns: Sequence[T], role: Callable[[T], str]) -> Sequence[T]:
    """Return the turns after those of the system at the beginning, however many.

    They are not read: what the system says belongs to a checkpoint's chat template.
    """
    first = next((i for i, turn in enumerate(turns) if role(turn) not in SYSTEM), len(turns))
    return turns[first:]


def odd_role(role: str) -> str:
    """Say what is wrong with a role that cannot be read where it stands."""
    if role in SYSTEM:
        return f"a turn of {role!r} can only stand before the question, where it is not read"
    if role in TOOLS:
        return f"{role!r} is a turn of a tool; conversations with tools cannot be learnt from"
    wanted = "" if role == role.strip().lower() else " (roles are written in small letters)"
    return f"unknown role {role!r}{wanted}"


def plain_turns(turns: Sequence[Spoken]) -> Sequence[Spoken] | None:
    """Return the user's turn and, if there is one, the assistant's; system turns are dropped."""
    said = without_system(turns, lambda turn: turn.role)
    return said if [turn.role for turn in said] in _SPOKEN else None


def messages(row: Row) -> list[tuple[str, object]]:
    """The user's turn and, if there is one, the assistant's: (role, content)."""
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
    turns = [(str(turn["role"]), turn["content"]) for turn in given]
    spoken = list(without_system(turns, lambda turn: turn[0]))
    roles = [role for role, _ in spoken]
    if roles not in _SPOKEN:
        odd = next((f"{odd_role(r)}; " for r in roles if r not in _SPOKEN[-1]), "")
        raise UserError(
            f"{row.source}: the roles are {', '.join(role for role, _ in turns)}; {odd}one user "
            "turn and at most one assistant turn after it can be learnt from"
        )
    return spoken


def plain_target(answer: str | None, solution: str | None) -> str | None:
    """What is learnt: the assistant's turn, or else the solution; with both they must agree."""
    if answer is None or solution is None:
        return solution if answer is None else answer
    thought = _THOUGHT.fullmatch(answer)  # the usual text, read sooner than by ``read_answer``
    try:
        said = thought[1] if thought else read_answer(answer)
        return answer if _agree(said, _known_answer(solution)) else None
    except UserError:
        return None


@functools.lru_cache(maxsize=1024)  # solutions are few
def _known_answer(solution: str) -> str:
    return read_answer(solution)


def target_of(row: Row, answer: object) -> str:
    """What is learnt: the assistant's turn, or else the solution."""
    solution = row.value.get("solution")
    solution = row.value.get("answer") if solution is None else solution
    for name, text in (("the assistant's content", answer), ("solution", solution)):
        if text is not None and not isinstance(text, str):
            raise UserError(f"{row.source}: {name} is {text!r}, not a string")
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


def _read(text: str, row: Row) -> str:
    try:
        return read_answer(text)
    except UserError as error:
        raise UserError(f"{row.source}: {error}") from None
