"""Any callable as a reward term: a batch or a row at a time, sync or async.

How it is called follows from the names of its parameters, which are read once, before anything is
scored. What it returns is checked at every call: a term that raises, or gives anything but one
finite number (numpy's count, and tensors of one element) or None a completion, stops the run and is
named with the example and the completion; so does one that does not return in time. A silent 0
would be trained on.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NoReturn

from omni_rlvr.rewards.base import RewardError, RewardTimeout
from omni_rlvr.rewards.watchdog.time_limit import Limited, awaited_within, keep_watch, within
from omni_rlvr.rewards.watchdog.watcher import GRACE_S
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
    """Completions to score, with what a term may ask about them."""

    completions: Sequence[str]
    examples: Sequence[Example]
    lengths: Sequence[int] | None
    """In tokens; None where they are not known."""

    def __len__(self) -> int:
        return len(self.completions)

    def one(self, row: int) -> Rows:
        """A single row."""
        lengths = None if self.lengths is None else [self.lengths[row]]
        return Rows([self.completions[row]], [self.examples[row]], lengths)


@dataclass(frozen=True)
class Judge:
    """A callable, and how it wants to be called."""

    name: str
    call: Callable[..., Any]
    takes: Sequence[str]
    """Those of the parameters in ``base.Term`` that it has, or their singulars."""
    is_async: bool
    max_score: float | None
    """The most a completion can earn; None where the callable does not say."""
    timeout_s: float | None
    """How long a call may take; None is for ever."""

    @property
    def by_row(self) -> bool:
        """Whether it scores one completion at a time."""
        return _ROW[0] in self.takes

    def score(self, rows: Rows) -> list[float]:
        """Score N rows; NaN for None, and for all where it asks for lengths that are not known."""
        if self._is_blind(rows):
            return [math.nan] * len(rows)
        try:
            scores = self._now(rows)
        except RewardTimeout as late:
            self._find_late(rows, late)
        except Exception as error:
            for i in range(len(rows)):
                try:
                    self._now(rows.one(i))
                except RewardTimeout:
                    raise
                except Exception as alone:
                    self._raise_row(alone, rows, i)
            self._raise_batch(error, rows)
        return self._numbers(scores, rows)

    async def score_async(self, rows: Rows) -> list[float]:
        """Score N rows as ``score`` does, with an async callable; its rows are awaited together."""
        if self._is_blind(rows):
            return [math.nan] * len(rows)
        try:
            scores = await self._gather(rows)
        except RewardTimeout as late:
            await self._find_late_async(rows, late)
        except Exception as error:
            await self._blame(rows, error)
        return self._numbers(scores, rows)

    async def _blame(self, rows: Rows, error: Exception) -> NoReturn:
        for i in range(len(rows)):
            try:
                await self._gather(rows.one(i))
            except RewardTimeout:
                raise
            except Exception as alone:
                self._raise_row(alone, rows, i)
        self._raise_batch(error, rows)

    def _find_late(self, rows: Rows, late: RewardTimeout) -> NoReturn:
        """Call again, a row at a time and within the time of one call, to name the one that hangs.

        Raises:
            RewardTimeout: names it, or is the one that is given where none is found.
        """
        if self.by_row or len(rows) < 2:
            raise late
        assert self.timeout_s is not None
        ends = time.monotonic() + self.timeout_s
        for i in range(len(rows)):
            one = rows.one(i)
            call = functools.partial(self.call, **self._batch(one))
            left_s = ends - time.monotonic()
            if left_s <= 0:
                break
            try:
                within(self._limited(self.timeout_s, one, len(rows)), call, left_s)
            except RewardTimeout as alone:
                raise alone from late
            except Exception:  # it says nothing of what hangs
                break
        raise late

    async def _find_late_async(self, rows: Rows, late: RewardTimeout) -> NoReturn:
        """Find the row that hangs as ``_find_late`` does; the rows are awaited together."""
        if not self.by_row and len(rows) > 1:
            calls = (self._gather(rows.one(i)) for i in range(len(rows)))
            for alone in await asyncio.gather(*calls, return_exceptions=True):
                if isinstance(alone, RewardTimeout):
                    raise alone from late
        raise late

    def _limited(self, timeout_s: float, rows: Rows, num_together: int = 1) -> Limited:
        """Make the limit of a call, which messages name by its row or by its batch."""
        again = (
            f" (on a batch of {num_together}; called again with one completion at a time, it hangs "
            "on this one)"
        )

        def describe(wrong: str) -> str:
            wrong = f"{wrong}{again}" if num_together > 1 else wrong
            if len(rows) == 1:
                return _row_message(self.name, wrong, rows, 0)
            return _batch_message(self.name, wrong, rows)

        return Limited(timeout_s, describe)

    def _is_blind(self, rows: Rows) -> bool:
        return rows.lengths is None and bool({"lengths", "length"} & {*self.takes})

    def _now(self, rows: Rows) -> Any:
        if self.by_row:
            return [self._call(rows.one(i), self._row(rows, i)) for i in range(len(rows))]
        return self._call(rows, self._batch(rows))

    def _call(self, rows: Rows, arguments: dict[str, Any]) -> Any:
        if self.timeout_s is None:
            return self.call(**arguments)
        call = functools.partial(self.call, **arguments)
        return within(self._limited(self.timeout_s, rows), call)

    async def _gather(self, rows: Rows) -> Any:
        if self.by_row:
            calls = (self._await(rows.one(i), self._row(rows, i)) for i in range(len(rows)))
            return list(await asyncio.gather(*calls))
        return await self._await(rows, self._batch(rows))

    async def _await(self, rows: Rows, arguments: dict[str, Any]) -> Any:
        if self.timeout_s is None:
            return await self.call(**arguments)
        call = functools.partial(self.call, **arguments)
        return await awaited_within(self._limited(self.timeout_s, rows), call)

    def _batch(self, rows: Rows) -> dict[str, Any]:
        values = dict(zip(_BATCH, (rows.completions, rows.examples, rows.lengths), strict=True))
        return {name: values[name] for name in self.takes}

    def _row(self, rows: Rows, row: int) -> dict[str, Any]:
        length = None if rows.lengths is None else rows.lengths[row]
        values = dict(zip(_ROW, (rows.completions[row], rows.examples[row], length), strict=True))
        return {name: values[name] for name in self.takes}

    def _numbers(self, scores: Any, rows: Rows) -> list[float]:
        if hasattr(scores, "tolist"):  # an array of numpy's, a tensor, a column of pandas'
            scores = scores.tolist()
        if not isinstance(scores, Sequence) or isinstance(scores, str):
            wrong = f"returned {type(scores).__name__}, not a list of scores"
            raise RewardError(_batch_message(self.name, wrong, rows))
        if len(scores) != len(rows):
            wrong = f"returned {len(scores)} scores for {len(rows)} completions"
            raise RewardError(_batch_message(self.name, wrong, rows))
        plain = [_plain_number(score) for score in scores]
        for i, score in enumerate(plain):
            if score is None or (isinstance(score, Real) and abs(float(score)) <= FLOAT32_MAX):
                continue
            wrong = f"returned {score!r}, which is neither a finite number nor None"
            raise RewardError(_row_message(self.name, wrong, rows, i))
        return [math.nan if score is None else float(score) for score in plain]

    def _raise_row(self, error: Exception, rows: Rows, row: int) -> NoReturn:
        message = _row_message(self.name, f"raised {_describe(error)}", rows, row)
        raise RewardError(message) from error

    def _raise_batch(self, error: Exception, rows: Rows) -> NoReturn:
        wrong = f"raised {_describe(error)} on the batch, though on none of its rows alone"
        raise RewardError(_batch_message(self.name, wrong, rows)) from error


def as_judge(name: str, term: object, timeout_s: float | None = None) -> Judge:
    """Read how a term wants to be called.

    Args:
        name: Its name under ``reward.terms``.
        term: The callable.
        timeout_s: How long a call may take; None where another limit holds, or none.

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
        raise UserError(f"reward.terms.{name}: {_called(term)}({has}) is no reward; {_WANTED}")
    return Judge(name, term, takes, _is_async(term), _max_score(name, term), timeout_s)


async def _all(judges: Sequence[Judge], rows: Rows) -> list[list[float]]:
    return list(await asyncio.gather(*(judge.score_async(rows) for judge in judges)))


def _run(judges: Sequence[Judge], rows: Rows) -> list[list[float]]:
    """Await async judges together.

    The whole has a limit too, for what no call's own limit ends: a term that blocks the event loop
    in a task of its own, or that catches that it is cancelled.
    """

    def all_of_them() -> list[list[float]]:
        return asyncio.run(_all(judges, rows))

    timeout_s = judges[0].timeout_s
    if timeout_s is None:
        return all_of_them()
    names = ", ".join(judge.name for judge in judges)
    limited = Limited(timeout_s, lambda wrong: _batch_message(names, wrong, rows))
    return within(limited, all_of_them, timeout_s + GRACE_S)


def score_all(judges: Sequence[Judge], rows: Rows) -> dict[str, list[float]]:
    """Score rows with every judge; the async ones are awaited together.

    Returns:
        Name -> N scores, NaN where not judged, in the order given.
    """
    if any(judge.timeout_s is not None for judge in judges):
        keep_watch()
    waiting = [judge for judge in judges if judge.is_async]
    scores = {judge.name: judge.score(rows) for judge in judges if not judge.is_async}
    if waiting:
        found = _run(waiting, rows)
        scores |= {judge.name: part for judge, part in zip(waiting, found, strict=True)}
    return {judge.name: scores[judge.name] for judge in judges}


def _plain_number(score: Any) -> Any:
    """Turn a number of numpy's or a tensor of one element into Python's own."""
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
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"


def _row_message(name: str, wrong: str, rows: Rows, row: int) -> str:
    completion, example = rows.completions[row], rows.examples[row]
    shown = repr(completion[:_SHOWN_CHARACTERS])
    if len(completion) > _SHOWN_CHARACTERS:
        shown += f"... ({len(completion)} characters)"
    return (
        f"reward term {name} {wrong}\n"
        f"  example: {example.id} ({example.source})\n"
        f"  completion: {shown}"
    )


def _batch_message(name: str, wrong: str, rows: Rows) -> str:
    if not len(rows):
        return f"reward term {name} {wrong}"
    wrong = f"{wrong}; the batch of {len(rows)} begins with"
    return _row_message(name, wrong, rows, 0)
