"""Cases that share a test are all run, and each that fails is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from every_case import every_case


def test_all_cases_run_and_those_that_fail_are_named() -> None:
    seen = []

    @every_case("number", [1, 2, 3, 4], ids=["one", "two", "three", "four"])
    def even(number: int) -> None:
        seen.append(number)
        if number == 3:
            pytest.fail("it is three")
        assert number % 2 == 0

    with pytest.raises(BaseExceptionGroup, match="2 of 4: case: one; case: three") as caught:
        even()
    assert seen == [1, 2, 3, 4]
    assert [type(error) for error in caught.value.exceptions] == [
        AssertionError,
        pytest.fail.Exception,
    ]


def test_tables_may_be_crossed() -> None:
    seen = []

    @every_case("a", "xy")
    @every_case(("b", "c"), [(1, 2), (3, 4)])
    def crossed(a: str, b: int, c: int) -> None:
        seen.append((a, b, c))
        assert (a, b) != ("y", 3)

    with pytest.raises(BaseExceptionGroup, match=r"1 of 2: case: 'y'"):
        crossed()
    assert seen == [("x", 1, 2), ("x", 3, 4), ("y", 1, 2), ("y", 3, 4)]


@every_case("name", ["a", "b"])
def test_each_case_has_a_folder_of_its_own(name: str, tmp_path: Path) -> None:
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text(name)
