"""Many small cases as one test: what a test costs beside its own work is then paid once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest


def every_case(
    names: str | Sequence[str],
    cases: Iterable[Any],
    ids: Sequence[str] | Callable[[Any], object] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Stands in for ``pytest.mark.parametrize`` where a case takes less time than a test costs.

    All cases are run, and the failure names each one that failed. Cases share the fixtures of the
    test, but each has a ``tmp_path`` of its own.
    """
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else [*names]
    listed = [case if len(names) > 1 else (case,) for case in cases]

    def name_of(number: int) -> str:
        case = listed[number]
        if callable(ids):
            return ", ".join(str(ids(value)) for value in case)
        return ids[number] if ids else ", ".join(f"{value!r:.100}" for value in case)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(test)
        fixtures = [p for p in signature.parameters.values() if p.name not in names]

        @functools.wraps(test)
        def run(**given: Any) -> None:
            failures = []
            for number, case in enumerate(listed):
                values = {**given, **dict(zip(names, case, strict=True))}
                if "tmp_path" in given:
                    values["tmp_path"] = given["tmp_path"] / str(number)
                    values["tmp_path"].mkdir()
                try:
                    test(**values)
                except (Exception, pytest.fail.Exception) as error:
                    error.add_note(f"case: {name_of(number)}")
                    failures.append(error)
            if failures:
                which = "; ".join(error.__notes__[-1] for error in failures)
                raise BaseExceptionGroup(f"{len(failures)} of {len(listed)}: {which}", failures)

        run.__signature__ = signature.replace(parameters=fixtures)  # type: ignore[attr-defined]
        return run

    return decorate
