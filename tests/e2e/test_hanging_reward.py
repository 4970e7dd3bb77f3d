"""Runs whose reward hangs: they end, say what hung, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.rewards.base import RewardTimeout
from omni_rlvr.tasks.train import run

HANGS = (
    "+reward.terms.mine._target_=case_numbers.HangsLater",
    "+reward.weights.mine=1",
    "reward.timeout_s=0.3",
)
MARK = "OMNI_RLVR_TEST"


def marked(value: str) -> dict[int, int]:
    """Processes that run and were started with this value of ``MARK`` in their environment.

    One that has ended counts no more, even where nobody waits for it (a container's first process
    may not).

    Returns:
        The number of each -> that of its parent; in order, so older ones first.
    """
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:  # it has ended meanwhile
            continue
        if f"{MARK}={value}".encode() in environment and state not in "ZX":
            found[int(folder.name)] = int(parent)
    return dict(sorted(found.items()))


def test_a_run_whose_reward_hangs_fails_by_name(runner) -> None:
    parts, folder = runner.build(*runner.grpo, *HANGS, "+reward.terms.mine.in_c=false")
    with pytest.raises(RewardTimeout, match=r"reward term mine took longer than .* was interr"):
        run(parts)
    record = read_json(folder / "run.json")
    assert record["status"] == "failed"
    assert record["error"].startswith("RewardTimeout: reward term mine took longer than reward.tim")
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == [1]


def test_the_check_of_gold_answers_does_not_hang(command) -> None:
    text = command(
        "stage=grpo",
        "+reward.terms.mine._target_=case_numbers.hangs",  # there is an h in <think>
        "+reward.terms.mine._partial_=true",
        "+reward.weights.mine=0",
        "reward.timeout_s=0.3",
    )
    assert str(text).startswith("error: reward term mine took longer than reward.timeout_s=0.3 s")
    assert "completion: '<think>gold</think>" in text


@pytest.mark.parametrize("value", ["0", "soon"])
def test_a_limit_that_is_none_is_refused(command, value: str) -> None:
    text = command("stage=grpo", f"reward.timeout_s={value}")
    assert str(text).startswith(f"error: reward.timeout_s={value if value == '0' else repr(value)}")


@pytest.mark.parametrize("task", ["train", "attribute"])
def test_the_option_reaches_each_task_that_scores(runner, task: str) -> None:
    own = (
        ("task.num_chosen=1", "task.num_generations=2") if task == "attribute" else ("stage=grpo",)
    )
    for given, found in (("null", None), ("7", 7.0)):
        parts, _ = runner.build(f"task={task}", *own, f"reward.timeout_s={given}")
        reward = parts.reward if task == "attribute" else parts.stage.reward
        assert {judge.timeout_s for judge in reward.terms.values()} == {found}


def test_a_run_that_cannot_be_interrupted_ends_with_its_workers(runner, monkeypatch) -> None:
    monkeypatch.setenv(MARK, str(runner.root))
    runner.overrides[runner.overrides.index("dataset.num_workers=0")] = "dataset.num_workers=2"
    done = runner.command(*runner.grpo, *HANGS, "+reward.terms.mine.in_c=true", "name=ended")
    assert done.returncode == -9
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "reward term mine took longer than reward.timeout_s=0.3 s and could not be" in line
    assert "the batch of 6 begins with example: " in line
    (folder,) = (runner.root / "ended").iterdir()
    assert read_json(folder / "run.json")["status"] == "failed"
    assert "RewardTimeout: reward term mine" in read_json(folder / "run.json")["error"]
    assert not marked(str(runner.root))


def test_of_several_processes_the_one_that_hangs_is_named(runner, monkeypatch) -> None:
    monkeypatch.setenv(MARK, str(runner.root))
    over = (*runner.grpo, *HANGS, "+reward.terms.mine.in_c=true", "name=two", "trainer.devices=2")
    done = runner.command(*over, timeout=240)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "reward term mine took longer than reward.timeout_s=0.3 s and could not be" in line
    (folder,) = (runner.root / "two").iterdir()
    record = read_json(folder / "run.json")
    assert record["status"] == "failed"
    assert record["error"].startswith("RewardTimeout: reward term mine")
    assert not marked(str(runner.root))
