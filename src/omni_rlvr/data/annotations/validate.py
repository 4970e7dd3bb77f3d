"""Turn raw annotation columns into examples, checking every row, a column at a time.

A reader gives the question, the target and the clip of each row, in the columns ``RAW``. Here the
text is cleaned, answers are compared with the labels, paths are checked to be below the root, and
ids are made unique. Arrow expressions handle the usual values of a column at once; each other
distinct value goes through a Python function once, which also raises the error that names the row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from omni_rlvr.data.annotations.example_table import ExampleTable, source
from omni_rlvr.text.parse import listed_labels, nfc, nfc_between_tags, normalise_label, parse
from omni_rlvr.types import UserError

Column: TypeAlias = pa.ChunkedArray
RAW = pa.schema(
    [
        ("question", pa.dictionary(pa.int32(), pa.string())),  # few distinct values
        *((name, pa.string()) for name in ("target", "video", "audio", "id", "cues")),
        ("file", pa.dictionary(pa.int32(), pa.string())),
        ("number", pa.int64()),
    ]
)
"""What a reader gives: question and target as annotated; video, audio, id and cues may be null."""

_PLACEHOLDER = re.compile(r"<(?:video|audio|image)>")
_PLACEHOLDERS_FIRST = r"^(?:<(?:video|audio|image)>[\r\n]*)+"
_TAG = r"</?(?:think|answer)>"
_THOUGHT = r"^\s*<think>[^<]*</think>\s*<answer>(?P<answer>[^<]*)</answer>\s*$"
_STEP = r"(?:\.{0,2}[^/.\x00][^/\x00]*|\.\.\.[^/\x00]*)"  # not empty, "." or ".."
_TIDY_PATH = f"^{_STEP}(?:/{_STEP})*$"


def to_examples(
    raw: pa.Table, root: Path, labels: Sequence[str] | None, left_out: Mapping[str, int]
) -> ExampleTable:
    """Check raw columns and make a table of examples.

    Args:
        raw: Columns as in ``RAW``, at least one row.
        root: The folder that the paths of clips are relative to; no path may lead out of it.
        labels: The answers that may occur, compared without regard to case and kept in this
            spelling; None for any.
        left_out: As in ``ExampleTable``.

    Raises:
        UserError: A row is wrong; the message begins with its place.
    """
    clips = {key: _paths(raw, key, root) for key in ("video", "audio")}
    nowhere = pc.and_(pc.is_null(clips["video"]), pc.is_null(clips["audio"]))
    if (row := _first(nowhere)) is not None:
        raise UserError(
            f"{source(raw, row)}: neither video nor audio is there; one of them must name a clip"
        )
    with ThreadPoolExecutor(max_workers=2) as pool:  # Arrow releases the GIL
        ids = pool.submit(_ids, raw)
        answers = pool.submit(_answers, raw, None if labels is None else spellings(labels))
        targets = pool.submit(_targets, raw)
    columns = {
        "id": ids.result(),
        "question": _questions(raw),
        "answer": answers.result(),
        "target": targets.result(),
        **clips,
        **{name: raw[name] for name in ("cues", "file", "number")},
    }
    return ExampleTable(pa.table(columns), root, left_out)


def spellings(labels: Sequence[str]) -> dict[str, str]:
    """Map each normalised label to the spelling to keep.

    Raises:
        UserError: ``labels`` is not a list of distinct words.
    """
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise UserError(
            f"labels: {labels!r} is not a list of strings; quote labels such as no and 1"
        )
    kept = {normalise_label(label): nfc(label.strip()) for label in labels}
    if not kept or "" in kept or len(kept) < len(labels):
        raise UserError(
            f"labels: {list(labels)} is empty, or holds a blank or the same label twice"
        )
    return kept


def constant(text: str | None, num_rows: int) -> pa.Array:
    """Make a column with the same text in every row."""
    return pa.repeat(pa.scalar(text, pa.string()), num_rows)


def files(path: Path, num_rows: int) -> pa.DictionaryArray:
    """Make the column ``file`` for rows that are all in one file."""
    return pa.DictionaryArray.from_arrays(np.zeros(num_rows, np.int32), [str(path)])


def _first(mask: Any) -> int | None:
    """Return the first row where the mask is set, or None."""
    row = pc.index(mask, True).as_py()
    return None if row < 0 else int(row)


def _rest(
    column: Column,
    done: Column,
    is_done: Any,
    rule: Callable[[str], str],
    where: Callable[[int], str],
) -> Column:
    """Return ``done`` where ``is_done``; elsewhere ``rule`` of each distinct value of ``column``.

    Args:
        column: The values before any processing.
        done: The result of a fast Arrow expression.
        is_done: The rows where that result is right.
        rule: Computes the result for one value, or raises a UserError that says what is wrong.
        where: Says where a row of ``column`` is, for the error.
    """
    rows = pc.indices_nonzero(pc.invert(is_done))
    if len(rows) == 0:
        return done
    encoded = pa.chunked_array([column.take(rows).combine_chunks()]).dictionary_encode().chunk(0)
    results = []
    for number, value in enumerate(encoded.dictionary.to_pylist()):
        try:
            results.append(rule(value))
        except UserError as error:
            row = rows[pc.index(encoded.indices, number).as_py()].as_py()
            raise UserError(f"{where(row)}: {error}") from None
    fixed = pa.array(results, pa.string()).take(encoded.indices)
    order = np.arange(len(column))
    order[rows.to_numpy()] = len(column) + np.arange(len(rows))
    return pa.chunked_array([*done.chunks, fixed], pa.string()).take(pa.array(order))


# ---- questions


def _questions(raw: pa.Table) -> Column:
    """Return the questions without placeholders, dictionary-encoded."""
    encoded = raw["question"].dictionary_encode().unify_dictionaries()
    column = pa.chunked_array([encoded.chunk(0).dictionary])
    done = pc.replace_substring_regex(column, _PLACEHOLDERS_FIRST, "")
    blank = pc.equal(pc.utf8_trim_whitespace(done), "")
    is_done = pc.invert(pc.or_(blank, pc.match_substring_regex(done, _PLACEHOLDER.pattern)))
    cleaned = _rest(
        column,
        done,
        is_done,
        clean_question,
        lambda word: source(raw, int((_indices(encoded) == word).argmax())),
    )
    return _recoded(encoded, cleaned.combine_chunks())


def clean_question(text: str) -> str:
    """Remove the placeholders and the newlines next to them.

    Between two texts one of those newlines stays, so that words do not run together.
    """
    first, *others = _PLACEHOLDER.split(text)
    question = first
    for part in others:
        left, right = question.rstrip("\r\n"), part.lstrip("\r\n")
        between = "\n" if len(left) + len(right) < len(question) + len(part) else ""
        question = left + (between if left and right else "") + right
    if not question.strip():
        raise UserError(f"the human turn {text!r} holds no question")
    return question


# ---- answers


def _answers(raw: pa.Table, labels: Mapping[str, str] | None) -> Column:
    """Return the gold label of every row in the spelling of the labels, dictionary-encoded."""
    column = raw["target"]
    tagged = pc.match_substring_regex(column, _TAG)
    thought = pc.struct_field(pc.extract_regex(column, _THOUGHT), "answer")
    done = pc.utf8_trim_whitespace(pc.if_else(tagged, thought, column))
    is_done = pc.fill_null(pc.not_equal(done, ""), False)
    encoded = _rest(
        column, done, is_done, read_answer, lambda row: source(raw, row)
    ).dictionary_encode()
    encoded = encoded.unify_dictionaries()
    words = encoded.chunk(0).dictionary.to_pylist()
    kept = [_kept(word.strip(), labels) for word in words]
    if None in kept:
        row = next(r for r, word in enumerate(_indices(encoded)) if kept[word] is None)
        known = ", ".join((labels or {}).values())
        answer = words[_indices(encoded)[row]].strip()
        raise UserError(
            f"{source(raw, row)}: the answer {answer!r} is not one of the labels: "
            f"{known}{_several(answer, labels or {})}"
        )
    return _recoded(encoded, pa.array(kept, pa.string()))


def _several(answer: str, labels: Mapping[str, str]) -> str:
    """Say what to do about an answer that lists several labels; "" for any other answer."""
    parts = listed_labels(answer)
    if len(parts) < 2 or not any(normalise_label(part) in labels for part in parts):
        return ""
    return (
        "; it names several labels, but a clip is evaluated on one: keep one of them, or train on "
        "sets of labels with dataset.splits.SPLIT.labels=null reward=open_vocabulary"
    )


def _targets(raw: pa.Table) -> Column:
    """Return the training targets, in Unicode NFC between the tags as the answers are."""
    column = raw["target"]
    is_done = pc.equal(pc.utf8_normalize(column, "NFC"), column)
    return _rest(column, column, is_done, nfc_between_tags, lambda row: source(raw, row))


def _recoded(encoded: Column, words: pa.Array) -> Column:
    """Return the column with the words of its dictionary replaced."""
    return pa.chunked_array(
        [pa.DictionaryArray.from_arrays(chunk.indices, words) for chunk in encoded.chunks]
    )


def _indices(encoded: Column) -> np.ndarray:
    return np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])


def _kept(word: str, labels: Mapping[str, str] | None) -> str | None:
    return nfc(word) if labels is None else labels.get(normalise_label(word))


def read_answer(target: str) -> str:
    """Return the answer that an assistant turn gives, stripped."""
    parsed = parse(target)
    answer = parsed.answer if parsed.bare is None else parsed.bare
    if not answer:
        raise UserError(
            f"no answer can be read from the assistant turn {target!r}; write the label alone, or "
            "<think>...</think> <answer>LABEL</answer>"
        )
    return answer


# ---- clips


def _paths(raw: pa.Table, key: str, root: Path) -> Column:
    """Return normalised paths relative to the root; null stays null."""
    column = raw[key]
    if column.null_count == len(column):
        return column
    done = column
    above = f"{str(root).rstrip('/')}/"
    if root.is_absolute() and pc.any(pc.starts_with(column, above)).as_py():
        done = pc.replace_substring_regex(done, f"^{re.escape(above)}/*", "")
    tidy = pc.and_(
        pc.match_substring_regex(done, _TIDY_PATH), pc.not_equal(pc.utf8_trim_whitespace(done), "")
    )
    is_done = pc.fill_null(tidy, True)
    return _rest(
        column,
        done,
        is_done,
        lambda name: _inside(name, key, root),
        lambda row: source(raw, row),
    )


def _inside(name: str, key: str, root: Path) -> str:
    """Return the path relative to the root; refuse one that climbs out of it."""
    if not name.strip() or "\0" in name or "://" in name:
        raise UserError(f"{key} is {name!r}, not the path of a clip")
    inside = os.path.normpath(name)
    if Path(inside).is_absolute():
        above, parts = root.parts, Path(inside).parts
        same = nfc("/".join(parts[: len(above)])) == nfc("/".join(above))
        inside = str(Path(*parts[len(above) :])) if same else os.path.relpath(inside, root)
    if inside == ".." or inside.startswith(f"..{os.sep}"):
        raise UserError(
            f"{key} {name!r} is outside the data folder {root}; correct the path, or set "
            "dataset.root to a folder that holds all clips"
        )
    return inside


# ---- ids


def _ids(raw: pa.Table) -> Column:
    """Return each row's id as given, or else its clip's path, with ``#2``, ``#3`` if repeated."""
    given = raw["id"]
    blank = pc.equal(pc.utf8_trim_whitespace(given), "")
    if (row := _first(blank)) is not None:
        raise UserError(f"{source(raw, row)}: id is {given[row].as_py()!r}, not a string")
    names = pc.coalesce(given, raw["video"], raw["audio"])
    if pc.count_distinct(names).as_py() == len(names):
        return names
    first: dict[str, int] = {}
    unique = []
    for row, (own, clip) in enumerate(zip(given.to_pylist(), names.to_pylist(), strict=True)):
        name, repeat = clip, 1
        if own is not None and own in first:
            raise UserError(
                f"{source(raw, row)}: id {own!r} is already used by "
                f"{source(raw, first[own])}; ids must be unique"
            )
        while name in first:
            repeat += 1
            name = f"{clip}#{repeat}"
        first[name] = row
        unique.append(name)
    return pa.chunked_array([pa.array(unique, pa.string())])
