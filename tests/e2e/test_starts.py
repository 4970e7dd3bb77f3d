"""What a run starts from: a quickstart's stages too, printed with how it ended, or refused."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from omni_rlvr.record import read_json, write_json
from omni_rlvr.rewards.accuracy import Accuracy
from omni_rlvr.rewards.format import Format
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.rewards.repetition import Repetition
from omni_rlvr.training.callbacks import NUM_STEPS, Unrewarded


@pytest.fixture
def quickstart(runner, checkpoint: Path) -> Path:
    """The folder of a quickstart's run, with random weights for its stages."""
    folder = runner.root / "quickstart" / "2026-01-01_12-00-00"
    stages = {"cold_start": [], "rlvr": []}
    record = {"status": "finished", "started": "2026-01-01T12:00:00", "command": ["omni-rlvr"]}
    for stage in stages:
        shutil.copytree(checkpoint, folder / stage / "checkpoint")
        config = {"task": {"name": "train"}}
        write_json(folder / stage / "run.json", record | {"config": config})
    config = {"task": {"name": "pipeline", "stages": stages}}
    write_json(folder / "run.json", record | {"config": config})
    return folder


def test_after_a_quickstart_its_stages_are_found(
    runner, quickstart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runner(*runner.evaluate, "model.path=${latest:rlvr}")
    path = quickstart / "rlvr" / "checkpoint"
    assert read_json(folder / "run.json")["config"]["model"]["path"] == str(path)
    assert f"model: {path} (its run finished)\n" in capsys.readouterr().err
    for experiment, stage in (("attribute", "rlvr"), ("serve", "rlvr"), ("rlvr", "cold_start")):
        own = [text for text in runner.overrides if not text.startswith("model.path")]
        cfg = type(runner)(runner.root, own).compose(f"+experiment={experiment}")
        assert cfg.model.path == str(quickstart / stage / "checkpoint")
        if experiment == "serve":
            assert cfg.task.compare == str(quickstart / "cold_start" / "checkpoint")


def test_an_unfinished_run_that_is_named_is_taken_with_a_warning(
    runner, quickstart: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = quickstart / "rlvr"
    write_json(run / "run.json", read_json(run / "run.json") | {"status": "interrupted"})
    runner(*runner.evaluate, f"model.path={run}/checkpoint")
    assert f"model.path={run}/checkpoint: its run was interrupted" in caplog.messages


def test_a_run_that_cannot_begin_is_one_line_and_leaves_no_folder(command, runner) -> None:
    runner.overrides = [o for o in runner.overrides if o.startswith("paths.")]
    assert command("+experiment=evaluate") == (
        f"error: model.path: there is no run of 'rlvr' under {runner.root} to start from; run "
        "'omni-rlvr +experiment=rlvr' first, or set model.path=DIR"
    )
    assert not list(runner.root.rglob("*"))


def test_a_checkpoint_that_is_not_there_is_told_with_what_makes_it(command, runner) -> None:
    """Before anything is read or made, and with names that exist."""
    runner.overrides = [o for o in runner.overrides if not o.startswith(("model", "dataset"))]
    root, hub = runner.root, "or a hub id, e.g. StarJiaxing/R1-Omni-0.5B"

    def told(path: str) -> str:
        text = str(command("+experiment=rlvr", f"model.path={path}"))
        assert not (runner.root.parent / "data").exists()
        return text.removeprefix(f"error: model.path={path} is not a folder").strip(";: ")

    assert told(f"{root}/cold_start/latest/checkpoint") == (
        f"there is no run of 'cold_start' under {root} to start from; run 'omni-rlvr "
        "+experiment=cold_start' first, or set model.path=DIR"
    )
    there = f"of which {root} holds none yet, {hub}"
    assert told(f"{root}/nothing") == f"give the folder of a checkpoint, {there}"
    assert told(f"{root}/mine/latest/checkpoint") == (
        f"there is no run of 'mine' under {root} to start from; set model.path=DIR, {there}"
    )
    (root / "cold_start" / "2026-01-01" / "checkpoints" / "step_000003").mkdir(parents=True)
    (root / "cold_start" / "latest").symlink_to("2026-01-01")
    there = f"e.g. {root}/cold_start/latest/checkpoint, {hub}"
    assert told(f"{root}/nothing") == f"give the folder of a checkpoint, {there}"
    (root / "cold_start" / "latest").unlink()
    text = command("+experiment=rlvr", f"model.path={root}/cold_start/latest/checkpoint")
    assert f"; model.path={root}/cold_start/2026-01-01/checkpoint uses the newest" in str(text)


def test_a_stage_of_a_quickstart_is_told_of(command, runner, quickstart: Path) -> None:
    runner.overrides = [o for o in runner.overrides if not o.startswith("model")]
    asked = f"model.path={runner.root}/rlvr/latest/checkpoint"
    assert command("task=evaluate", asked) == (
        f"error: {asked} is not a folder; model.path={quickstart}/rlvr/checkpoint uses the run "
        "that is there"
    )


def steps(callback: Unrewarded, rows: list[dict[str, object]], count: int) -> None:
    module = SimpleNamespace(completions=rows)
    for _ in range(count):
        callback.on_train_batch_end(None, module, None, None, 0)  # type: ignore[arg-type]


def test_a_reward_that_is_never_earned_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    weights = {"accuracy": 1.0, "format": 1.0, "metric": 0.0, "repetition": 0.5}
    terms = {"accuracy": Accuracy({}), "format": Format(), "metric": Format()}
    terms |= {"repetition": Repetition(ngram_size=3, max_penalty=-1.0)}
    callback = Unrewarded(Mixture(terms, weights))
    row: dict[str, object] = {f"rewards/{name}": 0.0 for name in weights}
    steps(callback, [row, row | {"rewards/format": float("nan")}], NUM_STEPS - 1)
    steps(callback, [], 5)  # steps without a prompt count for nothing
    assert not caplog.messages
    steps(callback, [row, row | {"rewards/accuracy": 1.0}], 10)
    (message,) = caplog.messages
    assert message.startswith("no completion earned any format reward in 20 steps")
    assert message.endswith("a cold start (stage=sft) on reasoning teaches the format")


def test_of_many_rewards_that_are_never_earned_a_few_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = [f"term{i:03d}" for i in range(1000)]
    mixture = Mixture(dict.fromkeys(names, Format()), dict.fromkeys(names, 1.0))
    steps(Unrewarded(mixture), [{f"rewards/{name}": 0.0 for name in names}], NUM_STEPS + 5)
    assert len(caplog.messages) == 6
    assert "any term004 reward" in caplog.messages[4]
    assert caplog.messages[5].startswith("995 more terms earned no reward either")


def test_training_watches_for_it(runner) -> None:
    parts, _ = runner.build(*runner.grpo)
    assert any(isinstance(callback, Unrewarded) for callback in parts.callbacks)
