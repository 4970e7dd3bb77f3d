"""Stops that a scheduler, a terminal or a person asks for: they save, and the run goes on."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import case_signals
import pytest
import torch
from case_signals import SEQUENCES, Sender, Spread
from test_resume import assert_same, num_lines, steady, wait_for

from omni_rlvr import stopping
from omni_rlvr.record import read_json, read_jsonl
from omni_rlvr.tasks.train import run
from omni_rlvr.training import callbacks
from omni_rlvr.types import Interrupted

STEPS = 3


def grpo(runner) -> tuple[str, ...]:
    """Three steps that move the weights, two updates each; nothing is saved on the way."""
    return (
        *runner.grpo,
        "+reward.terms.spread._target_=case_signals.Spread",
        "+reward.weights.spread=1",
        f"stage.max_steps={STEPS}",
        "stage.num_iterations=2",
    )


@pytest.fixture(scope="module")
def whole(make_runner) -> Path:
    """A run that nobody stopped."""
    runner = make_runner()
    return runner(*grpo(runner))


@pytest.fixture(autouse=True)
def _quiet_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("at_call", "signals", "num_calls"):
        monkeypatch.setattr(Spread, name, vars(Spread)[name])


def same_result(one: Path, other: Path) -> None:
    """Checks that two runs are equal to the last bit, whatever a clock said."""
    assert steady(one) == steady(other)
    assert read_jsonl(one / "completions.jsonl") == read_jsonl(other / "completions.jsonl")
    files = [(folder / "checkpoint" / "model.safetensors").read_bytes() for folder in (one, other)]
    assert files[0] == files[1]
    states = [torch.load(folder / "checkpoint" / "trainer_state.pt") for folder in (one, other)]
    assert_same(states[0]["optimizer"], states[1]["optimizer"])


PLACES = {
    "before the first step": (Sender("start", 0, ()), 0),
    "after a step": (Sender("batch end", 2, ()), 2),
    "in a rollout": (None, 1),
    "while saving": (None, 2),
}
"""Where a signal comes -> what sends it, and the step that the run stops at."""


@pytest.mark.parametrize(
    ("place", "signals"),
    [
        *((place, "SIGTERM twice") for place in PLACES),
        *(("in a rollout", name) for name in SEQUENCES if name not in ("SIGTERM", "SIGTERM twice")),
        ("before the first step", "SIGINT twice at once"),
    ],
)
def test_a_stopped_run_saves_and_goes_on_bit_for_bit(
    runner, whole, monkeypatch, place: str, signals: str
) -> None:
    numbers = SEQUENCES[signals]
    sender, step = PLACES[place]
    over = [*grpo(runner), *(["stage.save_steps=2"] if place == "while saving" else [])]
    parts, folder = runner.build(*over)
    if sender is not None:
        parts = replace(parts, callbacks=[*parts.callbacks, replace(sender, signals=numbers)])
    if place == "in a rollout":  # the first call is that of the gold answers
        Spread.at_call, Spread.signals, Spread.num_calls = 3, numbers, 1
    if signal.SIGTERM not in numbers and signal.SIGINT in numbers:
        step += 1  # Ctrl-C waits for the end of the step
    save = callbacks.save_checkpoint

    def saving(*arguments, **how):
        case_signals.send(numbers)
        return save(*arguments, **how)

    with monkeypatch.context() as patch:
        if place == "while saving":
            patch.setattr(callbacks, "save_checkpoint", saving)
        with pytest.raises(Interrupted, match=rf"^stopped at step {step} of {STEPS}; resume="):
            run(parts)
    assert stopping.exit_code() == (130 if numbers[0] == signal.SIGINT else 143)
    assert read_json(folder / "run.json")["status"] == "interrupted"
    assert torch.load(folder / "checkpoint" / "trainer_state.pt")["step"] == step
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # given back
    assert runner(*over, "resume=latest") == folder
    same_result(folder, whole)


def test_a_second_ctrl_c_stops_at_once(runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "AGAIN_S", 0.05)

    class Twice(Sender):
        def on_train_batch_end(self, *arguments) -> None:
            case_signals.send([signal.SIGINT])
            time.sleep(0.1)
            case_signals.send([signal.SIGINT])

    parts, folder = runner.build(*runner.sft)
    with pytest.raises(KeyboardInterrupt):
        run(replace(parts, callbacks=[Twice("", 0, ())]))
    assert read_json(folder / "run.json")["status"] == "interrupted"
    assert not (folder / "checkpoint").exists()


def test_signals_that_the_process_was_started_to_ignore_stay_ignored(runner) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        parts, folder = runner.build(*runner.sft)
        run(replace(parts, callbacks=[Sender("batch end", 1, [signal.SIGHUP])]))
    finally:
        signal.signal(signal.SIGHUP, before)
    assert read_json(folder / "run.json")["status"] == "finished"


def stopped(runner, over: tuple[str, ...], ready: Callable[[], bool], *, name: str) -> str:
    """Starts a command, sends SIGTERM to its whole group twice, as ``timeout`` does; its output."""
    process = runner.start(*over)
    wait_for(process, ready)
    os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert "Traceback" not in output
    assert "rror" not in output  # nor a worker's
    (folder,) = [path for path in (runner.root / name).iterdir() if path.name != "latest"]
    assert read_json(folder / "run.json")["status"] == "interrupted"
    return output


def test_a_whole_group_that_is_ended_saves_and_exits_with_143(runner) -> None:
    runner.overrides[runner.overrides.index("dataset.num_workers=0")] = "dataset.num_workers=2"
    over = (
        *runner.grpo,
        "+reward.terms.slow._target_=case_signals.Slow",
        "+reward.weights.slow=1",
        "stage.max_steps=6",
    )
    home = runner.root / "cut"
    output = stopped(runner, (*over, "name=cut"), lambda: num_lines(home) >= 2, name="cut")
    (message,) = re.findall(r"^stopped at step .*$", output, re.MULTILINE)
    folder = (home / "latest").resolve()
    assert message.endswith(f"resume={folder} goes on")
    whole = runner(*over, "name=whole")
    assert runner(*over, "name=cut", "resume=latest") == folder
    same_result(folder, whole)


def test_an_evaluation_that_is_ended_says_so(runner, clips: Path) -> None:
    over = (*runner.evaluate, "task.batch_size=1", "name=cut", "task.splits=[train,test]")
    home = runner.root / "cut"
    stopped(runner, over, lambda: bool(list(home.glob("*/run.json"))), name="cut")
