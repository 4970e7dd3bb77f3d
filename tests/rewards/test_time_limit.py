"""Rewards that hang: they are interrupted and named, or the process ends and says what hung."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import case_numbers
import pytest
from every_case import every_case

from omni_rlvr.record import read_json, write_json
from omni_rlvr.rewards.base import RewardError, RewardTimeout
from omni_rlvr.rewards.callables import Rows, as_reward_callable, score_all
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.rewards.watchdog.time_limit import checked_limit
from omni_rlvr.stopping import Stopped
from omni_rlvr.types import Example, UserError

LIMIT_S = 0.3
CASES = Path(case_numbers.__file__)
TEXTS = ["one", "which", "two"]
EXAMPLES = [
    Example(id=i, question="?", answer="sad", target="sad", video=None, source=f"a[{i}]")
    for i in ("good", "bad", "fine")
]


def score(term: object, timeout_s: float | None = LIMIT_S) -> list[float]:
    return Mixture({"mine": term}, {"mine": 1.0}, timeout_s)(TEXTS, EXAMPLES).rewards.tolist()


def line_of(text: str) -> int:
    """The number of the line of the makers that holds a text."""
    (number,) = [n for n, line in enumerate(CASES.read_text().splitlines(), 1) if text in line]
    return number


INTERRUPTED = {
    "backtracks": 're.match(r"(a+)+$"',
    "blocks_async": None,
    "blocks_inside": None,
    "returns_late": None,
    "raises_late": None,
    "hangs_async": None,
}
"""Maker -> the line in which it hangs, where that is said and is one of its own."""


@pytest.mark.slow
@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_term_that_hangs_is_interrupted_and_named(name: str) -> None:
    with pytest.raises(RewardTimeout) as caught:
        score(vars(case_numbers)[name])
    message = str(caught.value)
    assert message.startswith("reward term mine took longer than reward.timeout_s=0.3 s and was ")
    assert "\n  example: bad (a[bad])\n  completion: 'which'" in message
    assert "set reward.timeout_s=SECONDS, or null for no limit" in message
    if INTERRUPTED[name] is not None:
        assert f"({CASES}:{line_of(INTERRUPTED[name])})" in message
    assert isinstance(caught.value, UserError)
    assert score(lambda completion: 1.0) == [1, 1, 1]  # nothing of it is left


@pytest.mark.parametrize("name", ["hangs", "hangs_together"])
def test_a_batch_that_hangs_is_interrupted_and_named(name: str) -> None:
    with pytest.raises(RewardTimeout, match="the batch of 3 begins with") as caught:
        score(vars(case_numbers)[name])
    assert "\n  example: good (a[good])\n  completion: 'one'" in str(caught.value)
    if name == "hangs":
        line = line_of('time.sleep(3600 if "h" in text else 0)')
        assert f"({CASES}:{line})" in str(caught.value)


def slow(completion: str, example: Example) -> float:
    time.sleep(3 * LIMIT_S if example.id == "bad" else 0)
    return 1.0


@pytest.mark.slow  # they wait
def test_the_option_is_a_limit_and_null_is_none() -> None:
    for enough in (30, None):
        assert score(slow, enough) == [1, 1, 1]
    with pytest.raises(RewardTimeout):
        score(slow)


def test_the_limit_is_one_for_each_call() -> None:
    def steady(completion: str) -> float:
        time.sleep(0.6 * LIMIT_S)
        return 1.0

    assert score(steady, 2 * LIMIT_S) == [1, 1, 1]  # 1.8 limits in all


@every_case("value", [0, -1, True, "5", float("inf"), float("nan"), [5]])
def test_a_limit_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match=r"reward\.timeout_s=.*: give seconds, greater than 0"):
        checked_limit(value)


async def own_timeout_async(completion: str) -> float:
    raise TimeoutError("the judge is busy")


def own_timeout(completions: Sequence[str]) -> list[float]:
    raise TimeoutError("the judge is busy")


@pytest.mark.parametrize("term", [own_timeout, own_timeout_async])
def test_what_a_term_raises_itself_stays_as_it_is(term: object) -> None:
    with pytest.raises(RewardError, match="raised TimeoutError: the judge is busy") as caught:
        score(term)
    assert not isinstance(caught.value, RewardTimeout)


@pytest.mark.parametrize("stop", [Stopped, KeyboardInterrupt])
def test_a_request_to_stop_goes_through(stop: type[BaseException]) -> None:
    def stopping(completions: Sequence[str]) -> list[float]:
        raise stop

    with pytest.raises(stop) as caught:
        score(stopping)
    assert type(caught.value) is stop


def test_an_alarm_of_the_terms_own_works() -> None:
    """As math-verify has one."""

    def busy(number: int, frame: object) -> None:
        raise TimeoutError("own alarm")

    def alarmed(completion: str) -> float:
        before = signal.signal(signal.SIGALRM, busy)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            time.sleep(3600)
        except TimeoutError:
            return 0.5
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        return 1.0

    assert score(alarmed, 30) == [0.5, 0.5, 0.5]


def test_a_handler_that_was_there_gets_its_signals() -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGURG, lambda number, frame: got.append(number))
    try:
        assert score(lambda completion: 1.0) == [1, 1, 1]
        os.kill(os.getpid(), signal.SIGURG)
    finally:
        signal.signal(signal.SIGURG, before)
    assert got == [signal.SIGURG]


def test_another_thread_scores_without_a_limit() -> None:
    found: list[list[float]] = []
    thread = threading.Thread(target=lambda: found.append(score(slow)))
    thread.start()
    thread.join()
    assert found == [[1, 1, 1]]


def test_a_mixture_within_a_term_has_its_own_limit() -> None:
    def inner(completions: Sequence[str], examples: Sequence[Example]) -> list[float]:
        return Mixture({"own": case_numbers.backtracks}, {"own": 1.0}, LIMIT_S)(
            completions, examples
        ).rewards.tolist()

    with pytest.raises(RewardError, match=r"reward term own took longer .*timeout_s=0.3 s"):
        score(inner, 30)


def test_async_terms_that_wait_for_each_other_give_the_same() -> None:
    async def together(completion: str, example: Example) -> float:
        await asyncio.gather(*(asyncio.sleep(0.001) for _ in range(5)))
        try:
            await asyncio.wait_for(asyncio.sleep(3600), timeout=0.01)
        except TimeoutError:
            return float(len(completion))
        return 0.0

    assert score(together, 30) == score(together, None) == [3, 5, 3]


SCRIPT = """
import sys
import case_numbers
from pathlib import Path
from omni_rlvr.rewards.watchdog import time_limit
from omni_rlvr.rewards.callables import Rows, as_reward_callable, score_all
from omni_rlvr.types import Example
examples = [Example(i, "?", "sad", "sad", None, source="a") for i in ("good", "bad")]
term = as_reward_callable("mine", vars(case_numbers)[sys.argv[1]], 0.3)
with time_limit.reported_in(run_dir=Path(sys.argv[2])):
    try:
        score_all([term], Rows(["one", "two"], examples, None))
    except time_limit.RewardTimeout as late:
        print(late)
time_limit.end_in_time()
"""
ENDED = {
    "catches_all": -9,
    "holds_lock": -9,
    "blocks_in_c": -9,
    "leaves_thread": int(sys.version_info >= (3, 13)),  # before, Python forgets such a thread
    "leaves_thread_async": 1,
    "catches_cancel": 0,
}
"""Maker -> the exit code of a process that cannot interrupt it, whose threads it holds, or that
goes on once it was told.
"""
TOLD = {
    "leaves_thread": "interrupted",
    "leaves_thread_async": "cancelled",
    "catches_cancel": "cancelled",
}


@pytest.mark.slow
def test_where_nothing_helps_the_process_ends_and_says_why(tmp_path: Path) -> None:
    """All at once: what takes its time here is waiting."""
    path = os.pathsep.join([str(CASES.parent), *sys.path])
    processes = {}
    for name in ENDED:
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "run.json", {"config": {}, "status": "running"})
        processes[name] = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, name, str(tmp_path / name)],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    again = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "blocks_in_c", str(tmp_path / "blocks_in_c")],
        env={**os.environ, "PYTHONPATH": path, "LOCAL_RANK": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    outputs = {name: process.communicate(timeout=100) for name, process in processes.items()}
    told = again.communicate(timeout=100)[1]
    assert again.returncode == -9
    assert {name: process.returncode for name, process in processes.items()} == ENDED
    for name, how in TOLD.items():
        assert re.match(rf"reward term mine took .* was {how}.*\n  example: bad", outputs[name][0])
    for name in ENDED.keys() - TOLD.keys():
        errors = outputs[name][1] + (told if name == "blocks_in_c" else "")  # one of two ranks
        (line,) = filter(None, errors.splitlines())
        assert line.startswith(
            "error: reward term mine took longer than reward.timeout_s=0.3 s and could not be "
            "interrupted; "
        )
        assert f"example: {'good' if name == 'blocks_in_c' else 'bad'} (a)" in line
        record = read_json(tmp_path / name / "run.json")
        assert record["status"] == "failed"
        assert record["error"].startswith("RewardTimeout: reward term mine took longer")


def test_scores_are_the_same_with_a_limit() -> None:
    def lengths(completions: Sequence[str], examples: Sequence[Example]) -> list[float | None]:
        return [
            None if e.id == "fine" else len(t) / 7
            for t, e in zip(completions, examples, strict=True)
        ]

    rows = Rows(TEXTS, EXAMPLES, None)
    scores = [
        score_all([as_reward_callable("mine", lengths, limit)], rows)["mine"]
        for limit in (60, None)
    ]
    assert repr(scores[0]) == repr(scores[1]) == repr([3 / 7, 5 / 7, float("nan")])
