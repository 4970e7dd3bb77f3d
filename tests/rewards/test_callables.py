"""Any callable as a term: how it is called, what is refused, and what async ones do."""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from every_case import every_case

from omni_rlvr.rewards.base import RewardError
from omni_rlvr.rewards.callables import Rows, as_reward_callable, score_all
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.types import Example, UserError

TEXTS = ["first", "second", "third"]
EXAMPLES = [
    Example(id=f"clip{i}", question="?", answer="sad", target="sad", video=None, source=f"a[{i}]")
    for i in range(3)
]
LENGTHS = [4, 5, 6]


def batch(completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
    return [float(len(text) + len(e.id)) for text, e in zip(completions, examples, strict=True)]


def swapped(examples: Sequence[Example], completions: Sequence[str]) -> list[float]:
    return batch(completions, examples)


def row(completion: str, example: Example) -> float:
    return float(len(completion) + len(example.id))


def scaled_row(completion: str, example: Example, factor: float) -> float:
    return factor * row(completion, example)


def with_default(completion: str, example: Example, factor: float = 1.0) -> float:
    return scaled_row(completion, example, factor)


def open_ended(completions: Sequence[str], **anything: Any) -> list[float]:
    return batch(completions, EXAMPLES)


async def slow_batch(completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
    await asyncio.sleep(0.05)
    return batch(completions, examples)


async def slow_row(completion: str, example: Example) -> float:
    await asyncio.sleep(0.05)
    return row(completion, example)


class SlowTerm:
    async def __call__(
        self, completions: Sequence[str], examples: Sequence[Example]
    ) -> list[float]:
        return await slow_batch(completions, examples)

    async def method(self, completion: str, example: Example) -> float:
        return await slow_row(completion, example)


CALLABLES = {
    "batch": batch,
    "any order": swapped,
    "row": row,
    "partial": functools.partial(scaled_row, factor=1.0),
    "default": with_default,
    "open-ended": open_ended,
    "lambda": lambda completions, examples: batch(completions, examples),
    "async batch": slow_batch,
    "async row": slow_row,
    "async partial": functools.partial(functools.partial(slow_row)),
    "async object": SlowTerm(),
    "async method": SlowTerm().method,
}


def score(term: object, lengths: Sequence[int] | None = LENGTHS) -> list[float]:
    return Mixture({"mine": term}, {"mine": 1.0})(TEXTS, EXAMPLES, lengths).rewards.tolist()


@every_case("name", CALLABLES)
def test_every_kind_of_callable_gives_the_same(name: str) -> None:
    assert score(CALLABLES[name]) == [10, 11, 10]  # 5 + 5, 6 + 5, 5 + 5 letters


def test_lengths_reach_those_who_ask() -> None:
    assert score(lambda completions, lengths: list(map(float, lengths))) == LENGTHS
    assert score(lambda completion, length: float(length)) == LENGTHS


def test_who_asks_for_lengths_cannot_judge_without() -> None:
    mixture = Mixture(
        {"long": lambda completion, length: 1.0, "row": row}, {"long": 1.0, "row": 1.0}
    )
    output = mixture(TEXTS, EXAMPLES)
    assert output.terms["long"].isnan().all()
    assert output.rewards.tolist() == [10, 11, 10]


def test_async_terms_and_rows_are_awaited_together() -> None:
    terms = {f"t{i}": slow_row for i in range(20)}
    started = time.perf_counter()
    Mixture(terms, dict.fromkeys(terms, 1.0))(TEXTS, EXAMPLES)
    assert time.perf_counter() - started < 20 * 3 * 0.05 / 2  # in turn: 3 s


def none_at_all() -> list[float]:
    return []


def trl_style(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return []


def one_more(completions: list[str], examples: list[Example], tokenizer: object) -> list[float]:
    return []


@every_case(
    ("term", "words"),
    [
        (none_at_all, r"test_callables\.none_at_all\(\) is not a reward term"),
        (trl_style, r"trl_style\(prompts, completions, columns\) is not a reward term"),
        (one_more, r"one_more\(completions, examples, tokenizer\) is not a reward term"),
        (scaled_row, r"scaled_row\(completion, example, factor\) is not a reward term"),
        (lambda texts, labels: [], r"<lambda>\(texts, labels\)"),
        (lambda completion, examples: 0.0, r"\(completion, examples\)"),
        (lambda completions, /: [], "is not a reward term"),
        (3, "int is not callable"),
    ],
)
def test_a_wrong_signature_is_named_with_what_is_wanted(term: object, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        score(term)
    message = str(caught.value)
    assert message.startswith("reward.terms.mine: ")
    assert "(completions, examples)" in message
    assert "\n" not in message


def raising_plain_row(completion: str) -> float:
    return 1 / (completion != "second")


async def raising_async_row(completion: str) -> float:
    return 1 / (completion != "second")


@pytest.mark.parametrize("term", [raising_plain_row, raising_async_row])
def test_a_row_that_raises_names_term_example_and_completion(term: object) -> None:
    with pytest.raises(RewardError) as caught:
        score(term)
    for word in ("mine raised", "Error", "clip1", "a[1]", "'second'", "test_callables.py:"):
        assert word in str(caught.value)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_batch_that_raises_is_named_and_called_once(is_async: bool) -> None:
    calls = []

    def raising(completions: Sequence[str]) -> list[float]:
        calls.append(len(completions))
        raise KeyError("judge")

    async def raising_async(completions: Sequence[str]) -> list[float]:
        return raising(completions)

    with pytest.raises(RewardError) as caught:
        score(raising_async if is_async else raising)
    words = ("mine raised KeyError: 'judge'", "test_callables.py:", "the batch of 3 begins with")
    for word in (*words, "clip0", "a[0]", "'first'"):
        assert word in str(caught.value)
    assert calls == [3]


def exiting_batch(completions: Sequence[str]) -> list[float]:
    sys.exit(3)


def exiting_row(completion: str) -> float:
    sys.exit(3)


async def exiting_async_row(completion: str) -> float:
    sys.exit(3)


async def exiting_later_batch(completions: Sequence[str]) -> list[float]:
    await asyncio.sleep(0.01)
    sys.exit(3)


@every_case("timeout_s", [None, 30.0])
@every_case("term", [exiting_batch, exiting_row, exiting_async_row, exiting_later_batch])
def test_a_term_that_calls_exit_is_named_as_one_that_raises(
    term: Callable[..., Any], timeout_s: float | None
) -> None:
    callables = [as_reward_callable("mine", term, timeout_s)]
    with pytest.raises(RewardError) as caught:
        score_all(callables, Rows(TEXTS, EXAMPLES, LENGTHS))
    assert f"reward term mine raised SystemExit: 3 ({__file__}:" in str(caught.value)
    assert f"completion: {TEXTS[0]!r}" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1"])
def test_an_async_row_that_is_no_number_is_named(value: object) -> None:
    async def term(completion: str) -> object:
        return value if completion == "third" else 0.0

    with pytest.raises(RewardError, match="neither a finite number nor None") as caught:
        score(term)
    assert "clip2" in str(caught.value)


def test_none_from_an_async_row_is_left_out() -> None:
    async def term(completion: str) -> float | None:
        return None if completion == "third" else 1.0

    output = Mixture({"mine": term}, {"mine": 1.0})(TEXTS, EXAMPLES)
    assert output.rewards.isnan().tolist() == [False, False, True]


def test_a_coroutine_that_forgot_its_async_is_no_list() -> None:
    async def inner() -> list[float]:
        return [0.0] * 3

    def term(completions: Sequence[str]) -> Any:
        coroutine = inner()
        coroutine.close()
        return coroutine

    with pytest.raises(RewardError, match="returned coroutine, not a list of scores"):
        score(term)


def test_completions_and_lengths_must_pair() -> None:
    with pytest.raises(ValueError, match="3 completions with 2 lengths"):
        score(row, [1, 2])


@every_case(
    "scores",
    [
        np.array([0.5, 1.0], dtype=np.float32),
        np.array([[0.5], [1.0]])[:, 0],
        torch.tensor([0.5, 1.0], dtype=torch.bfloat16, requires_grad=True),
        [np.float32(0.5), np.int64(1)],
        [torch.tensor(0.5), torch.tensor([1.0])],
        [np.array(0.5), np.bool_(True)],
        (0.5, True),
        np.ma.masked_array([0.5, 1.0]),
    ],
)
def test_numbers_of_numpy_and_tensors_are_scores(scores: object) -> None:
    def term(completions, examples):
        return scores

    rows = Rows(TEXTS[:2], EXAMPLES[:2], None)
    (found,) = score_all([as_reward_callable("mine", term)], rows).values()
    assert found == [0.5, 1.0]
    assert all(type(score) is float for score in found)


@every_case(
    ("scores", "wrong"),
    [
        (np.array(0.5), "returned float, not a list of scores"),
        (np.array([[0.5, 1.0]]), "returned 1 scores for 2 completions"),
        (torch.tensor([0.5, float("nan")]), "returned nan, which is neither"),
        ([np.array([1.0, 2.0]), 1.0], r"returned \[1.0, 2.0\], which is neither"),
        (np.array(["a", "b"]), "returned 'a', which is neither"),
        (np.array([1 + 1j, 0]), r"returned \(1\+1j\), which is neither"),
    ],
)
def test_what_is_no_number_of_theirs_is_refused(scores: object, wrong: str) -> None:
    rows = Rows(TEXTS[:2], EXAMPLES[:2], None)
    with pytest.raises(RewardError, match=wrong):
        score_all([as_reward_callable("mine", lambda completions, examples: scores)], rows)
