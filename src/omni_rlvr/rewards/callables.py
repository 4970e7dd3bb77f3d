"""Any callable as a reward term: a batch or a row at a time, sync or async.

How it is called follows from the names of its parameters, which are read once, before anything is
scored. Its result is checked at every call: one finite number (numpy's numbers and tensors of one
element count) or None for each completion. A term that returns anything else, raises, or does not
return in time stops the run, since a score of 0 in its place would silently be trained on. The
error names the example and the completion if the term scores one row at a time. Otherwise it names
the batch, which is not scored again to find the row.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from omni_rlvr.rewards.base import CalledExit, RewardError, RewardTimeout, exit_as_error
from omni_rlvr.rewards.watchdog.time_limit import (
    LOOP_S,
    Limited,
    awaited_within,
    keep_watch,
    within,
)
from omni_rlvr.stopping import place_of
from omni_rlvr.types import Example, UserError

FLOAT32_MAX = 3.4028234663852886e38
_SHOWN_CHARACTERS = 2000
_BATCH = ("completions", "examples", "lengths")
_ROW = ("completion", "example", "length")
_WANTED = (
    "it needs (completions, examples) for a batch or (completion, example) for a row; "
    "lengths or length, in tokens, may follow"
)


@dataclass(frozen=True)
class Rows:
    """Completions to score, with the other arguments that a term may take."""

    completions: Sequence[str]
    examples: Sequence[Example]
    lengths: Sequence[int] | None
    """In tokens; None if they are not known."""

    def __len__(self) -> int:
        return len(self.completions)

    def one(self, row: int) -> Rows:
        """Return a single row."""
        lengths = None if self.lengths is None else [self.lengths[row]]
        return Rows([self.completions[row]], [self.examples[row]], lengths)


@dataclass(frozen=True)
class RewardCallable:
    """A callable, and how it wants to be called."""

    name: str
    call: Callable[..., Any]
    takes: Sequence[str]
    """Its parameters: some of those of ``base.Term``, or of their singular forms."""
    is_async: bool
    max_score: float | None
    """The most a completion can earn; None where the callable does not say."""
    timeout_s: float | None
    """Seconds that a call may take; None for no limit."""

    @property
    def by_row(self) -> bool:
        """Whether it scores one completion at a time."""
        return _ROW[0] in self.takes

    def score(self, rows: Rows) -> list[float]:
        """Score N rows: NaN for None, and for all rows if lengths are needed but not known."""
        if self._lacks_lengths(rows):
            return [math.nan] * len(rows)
        return self._numbers([self._call(part) for part in self._parts(rows)], rows)

    async def score_async(self, rows: Rows) -> list[float]:
        """Score N rows as ``score`` does, with an async callable; its rows are awaited together."""
        if self._lacks_lengths(rows):
            return [math.nan] * len(rows)
        calls = (self._await(part) for part in self._parts(rows))
        return self._numbers(list(await asyncio.gather(*calls)), rows)

    def _lacks_lengths(self, rows: Rows) -> bool:
        return rows.lengths is None and bool({"lengths", "length"} & {*self.takes})

    def _parts(self, rows: Rows) -> list[Rows]:
        """Return the rows of each call: all rows, or one of them."""
        return [rows.one(i) for i in range(len(rows))] if self.by_row else [rows]

    def _call(self, part: Rows) -> Any:
        call = self._with_arguments(part)
        try:
            with exit_as_error():
                return call() if self.timeout_s is None else within(self._limited(part), call)
        except RewardTimeout:
            raise
        except Exception as error:
            raise self._error(f"raised {_describe(error)}", part) from error

    async def _await(self, part: Rows) -> Any:
        call = self._with_arguments(part)
        try:
            if self.timeout_s is None:
                with exit_as_error():
                    return await call()
            return await awaited_within(self._limited(part), call)
        except RewardTimeout:
            raise
        except Exception as error:
            raise self._error(f"raised {_describe(error)}", part) from error

    def _with_arguments(self, part: Rows) -> Callable[[], Any]:
        values: dict[str, Any] = dict(
            zip(_BATCH, (part.completions, part.examples, part.lengths), strict=True)
        )
        if self.by_row:
            values = {
                name: None if column is None else column[0]
                for name, column in zip(_ROW, values.values(), strict=True)
            }
        return functools.partial(self.call, **{name: values[name] for name in self.takes})

    def _limited(self, part: Rows) -> Limited:
        assert self.timeout_s is not None
        return Limited(self.timeout_s, functools.partial(_message, self.name, rows=part))

    def _numbers(self, results: list[Any], rows: Rows) -> list[float]:
        """Check the results of the calls, and convert them to one number per row."""
        scores = results if self.by_row else results[0]
        if hasattr(scores, "tolist"):  # a numpy array, a tensor, a pandas column
            scores = scores.tolist()
        if not isinstance(scores, Sequence) or isinstance(scores, str):
            raise self._error(f"returned {type(scores).__name__}, not a list of scores", rows)
        if len(scores) != len(rows):
            raise self._error(f"returned {len(scores)} scores for {len(rows)} completions", rows)
        plain = [_plain_number(score) for score in scores]
        for i, score in enumerate(plain):
            if score is not None and not (
                isinstance(score, Real) and abs(float(score)) <= FLOAT32_MAX
            ):
                wrong = f"returned {score!r}, which is neither a finite number nor None"
                raise self._error(wrong, rows.one(i))
        return [math.nan if score is None else float(score) for score in plain]

    def _error(self, wrong: str, rows: Rows) -> RewardError:
        return RewardError(_message(self.name, wrong, rows))


def as_reward_callable(name: str, term: object, timeout_s: float | None = None) -> RewardCallable:
    """Read from a term's signature how it is to be called.

    Args:
        name: Its name under ``reward.terms``.
        term: The callable.
        timeout_s: Seconds that a call may take; None for no limit of its own.

    Raises:
        UserError: It is not callable, its parameters have other names, or its ``max_score`` is not
            a finite number.
    """
    if not callable(term):
        raise UserError(f"reward.terms.{name}: {type(term).__name__} is not callable; {_WANTED}")
    try:
        parameters = inspect.signature(term).parameters.values()
    except (TypeError, ValueError) as error:
        raise UserError(f"reward.terms.{name}: {term!r} has no signature; {_WANTED}") from error
    known = _ROW if any(p.name == _ROW[0] for p in parameters) else _BATCH
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes = [p.name for p in named if p.name in known]
    open_ended = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    strange = [
        p.name
        for p in parameters
        if p.default is p.empty and p.name not in takes and p.kind not in open_ended
    ]
    if known[0] not in takes or strange:
        has = ", ".join(p.name for p in parameters)
        raise UserError(
            f"reward.terms.{name}: {_called(term)}({has}) is not a reward term; {_WANTED}"
        )
    return RewardCallable(name, term, takes, _is_async(term), _max_score(name, term), timeout_s)


def _run(terms: Sequence[RewardCallable], rows: Rows) -> list[list[float]]:
    """Await async terms together.

    The event loop has a limit of its own, because the limit of a call cannot end a term that blocks
    the loop or that catches its cancellation.
    """

    async def all_of_them() -> list[list[float]]:
        return await asyncio.gather(*(term.score_async(rows) for term in terms))

    timeout_s = terms[0].timeout_s
    if timeout_s is None:
        return asyncio.run(all_of_them())
    names = ", ".join(term.name for term in terms)
    limited = Limited(timeout_s, functools.partial(_message, names, rows=rows))
    return within(limited, lambda: asyncio.run(all_of_them()), more_s=LOOP_S)


def score_all(terms: Sequence[RewardCallable], rows: Rows) -> dict[str, list[float]]:
    """Score rows with every term; the async ones are awaited together.

    Returns:
        Name -> N scores, NaN where there is none, in the order of ``terms``.
    """
    if any(term.timeout_s is not None for term in terms):
        keep_watch()
    waiting = [term for term in terms if term.is_async]
    scores = {term.name: term.score(rows) for term in terms if not term.is_async}
    if waiting:
        found = _run(waiting, rows)
        scores |= {term.name: part for term, part in zip(waiting, found, strict=True)}
    return {term.name: scores[term.name] for term in terms}


def _plain_number(score: Any) -> Any:
    """Turn a numpy number or a tensor of one element into a Python number."""
    if not hasattr(score, "tolist"):
        return score
    value = score.tolist()
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _is_async(term: Any) -> bool:
    while isinstance(term, functools.partial):
        term = term.func
    return inspect.iscoroutinefunction(term) or inspect.iscoroutinefunction(type(term).__call__)


def _called(term: Any) -> str:
    while isinstance(term, functools.partial):
        term = term.func
    named = term if inspect.isroutine(term) or inspect.isclass(term) else type(term)
    return f"{named.__module__}.{named.__qualname__}"


def _max_score(name: str, term: Any) -> float | None:
    value = _plain_number(term.max_score) if hasattr(term, "max_score") else None
    if value is not None and (not isinstance(value, Real) or not math.isfinite(value)):
        raise UserError(f"reward.terms.{name}: max_score {value!r} is not a finite number")
    return None if value is None else float(value)


def _describe(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, CalledExit) else error
    assert cause is not None
    return f"{type(cause).__name__}: {cause} ({place_of(cause)})"


def _message(name: str, wrong: str, rows: Rows) -> str:
    """Write the error message of a term on some rows; it shows the first of them."""
    if not len(rows):
        return f"reward term {name} {wrong}"
    completion, example = rows.completions[0], rows.examples[0]
    shown = repr(completion[:_SHOWN_CHARACTERS])
    if len(completion) > _SHOWN_CHARACTERS:
        shown += f"... ({len(completion)} characters)"
    which = f"; the batch of {len(rows)} begins with" if len(rows) > 1 else ""
    return (
        f"reward term {name} {wrong}{which}\n"
        f"  example: {example.id} ({example.source})\n"
        f"  completion: {shown}"
    )
