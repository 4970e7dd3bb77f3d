"""R1-Omni's annotation format: conversations of one question and one answer about a clip.

Reads cold-start files (the assistant thinks and answers in tags) and RL files (the assistant says a
bare label) alike. Everything is validated here and nothing is read from the clips: a wrong line is
found before a model is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from omni_rlvr.data.manifest import Row, read_rows
from omni_rlvr.text.parse import normalise_label, parse
from omni_rlvr.types import Example, UserError

_PLACEHOLDER = re.compile(r"<(?:video|audio|image)>")
_HUMAN, _ASSISTANT = ("human", "user"), ("gpt", "assistant")


class R1OmniReader:
    """Reads ``{video, audio, id, cues, conversations: [{from, value}, {from, value}]}``.

    ``video``, ``audio`` (a sidecar, or the only medium), ``id`` and ``cues`` are optional, though
    one medium must be there; other keys are left alone. An ``id`` that is left out is the clip's
    path as written, with ``#2``, ``#3`` added where a clip is annotated again; an ``id`` that is
    given twice is refused.

    Args:
        annotations: A ``.json``, ``.jsonl`` or ``.yaml`` file, see ``manifest.read_rows``.
        root: The folder that ``video`` and ``audio`` are relative to; they cannot leave it.
        labels: The answers that may occur, matched but for case, kept in this spelling; None for
            any.
        seed: Decides what ``random:N`` of a YAML mixture draws.
    """

    def __init__(
        self, annotations: str, root: str, labels: Sequence[str] | None, seed: int
    ) -> None:
        self._annotations = Path(annotations)
        self._root = Path(root)
        self._labels = None if labels is None else _spellings(labels)
        self._seed = seed

    def read(self) -> list[Example]:
        """Read and validate every annotation.

        Returns:
            Examples in file order, at least one, with unique ids.

        Raises:
            UserError: Something in the files is not as described; the message begins with the file
                and line.
        """
        sources: dict[str, str] = {}
        rows = read_rows(self._annotations, seed=self._seed)
        return [self._example(row, sources) for row in rows]

    def _example(self, row: Row, sources: dict[str, str]) -> Example:
        question, target = _conversation(row)
        video, audio = self._clip(row, "video"), self._clip(row, "audio")
        if video is None and audio is None:
            raise UserError(
                f"{row.source}: neither video nor audio is there; one of them must name a clip"
            )
        return Example(
            id=_unique_id(row, sources),
            question=_clean_question(question, row.source),
            answer=self._answer(target, row.source),
            target=target,
            video=video,
            audio=audio,
            cues=_cues(row),
            source=row.source,
        )

    def _clip(self, row: Row, key: str) -> Path | None:
        """The path under the root, or None; refuses what climbs out of it."""
        name = row.value.get(key)
        if name is None:
            return None
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise UserError(f"{row.source}: {key} is {name!r}, not the path of a clip")
        inside = os.path.normpath(name)
        if Path(inside).is_absolute():
            inside = os.path.relpath(inside, self._root)
        if inside == ".." or inside.startswith(f"..{os.sep}"):
            raise UserError(f"{row.source}: {key} {name!r} is outside the data folder {self._root}")
        return self._root / inside

    def _answer(self, target: str, source: str) -> str:
        parsed = parse(target)
        answer = parsed.answer if parsed.bare is None else parsed.bare
        if not answer:
            raise UserError(
                f"{source}: no answer can be read from the assistant turn {target!r}; write the "
                "label alone, or <think>...</think> <answer>LABEL</answer>"
            )
        if self._labels is None:
            return answer
        key = normalise_label(answer)
        if key not in self._labels:
            known = ", ".join(self._labels.values())
            raise UserError(f"{source}: the answer {answer!r} is not one of the labels: {known}")
        return self._labels[key]


def _spellings(labels: Sequence[str]) -> dict[str, str]:
    """Normalised label -> the spelling to keep."""
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise UserError(
            f"labels: {labels!r} is not a list of strings; quote labels such as no and 1"
        )
    spellings = {normalise_label(label): label.strip() for label in labels}
    if not spellings or "" in spellings or len(spellings) < len(labels):
        raise UserError(f"labels: {list(labels)} is empty, holds a blank, or one label twice")
    return spellings


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


def _clean_question(text: str, source: str) -> str:
    """Take out the placeholders and the newlines next to them.

    Where text stands on both sides, one of those newlines stays: words must not run together.
    """
    first, *others = _PLACEHOLDER.split(text)
    question = first
    for part in others:
        left, right = question.rstrip("\r\n"), part.lstrip("\r\n")
        between = "\n" if len(left) + len(right) < len(question) + len(part) else ""
        question = left + (between if left and right else "") + right
    if not question.strip():
        raise UserError(f"{source}: the human turn {text!r} holds no question")
    return question


def _cues(row: Row) -> dict[str, str]:
    cues = row.value.get("cues")
    if cues is None:
        return {}
    if not isinstance(cues, dict) or not all(isinstance(value, str) for value in cues.values()):
        raise UserError(f"{row.source}: cues is {cues!r}, not an object of strings")
    return dict(cues)


def _unique_id(row: Row, sources: dict[str, str]) -> str:
    """The row's id, noted in ``sources`` (id -> where it was first used)."""
    given = row.value.get("id")
    if given is None:
        clip = next(row.value[key] for key in ("video", "audio") if row.value.get(key) is not None)
        name, repeat = str(clip), 1
        while name in sources:
            repeat += 1
            name = f"{clip}#{repeat}"
    elif isinstance(given, bool) or not isinstance(given, str | int) or not str(given).strip():
        raise UserError(f"{row.source}: id is {given!r}, not a string")
    elif str(given) in sources:
        raise UserError(
            f"{row.source}: id {given!r} is taken by {sources[str(given)]}; ids are unique"
        )
    else:
        name = str(given)
    sources[name] = row.source
    return name
