"""Whatever a command line says ends in one line, and before the work."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Command = Callable[..., int | str]
PIPELINE = ("task=pipeline", "task.splits=[test]")
EVALUATE = '+task.evaluate.m=["task=evaluate"]'


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["trainer=null"], "trainer=null: a group takes the name of one of its options"),
        (["+experiment=null"], "+experiment=null: a group takes the name of one"),
        (["~seed"], "seed must be given, e.g. seed=VALUE"),
        (["~stage"], "stage must be given, e.g. stage=VALUE"),
        (["optimizer._target_=5"], "optimizer._target_=5 is out of range: MODULE.NAME of what"),
        (["hydra.run.dir="], "hydra.run.dir is empty: it must name a folder"),
        (["-m", "hydra.sweep.dir=", "seed=0,1"], "hydra.sweep.dir is empty: it must name a"),
        (["-m", "~hydra.callbacks.sweep", "seed=0,1"], "~hydra.callbacks.sweep: a sweep does not"),
        (["-m", "seed=range(0,0)"], "the sweep has no run: a list of values is empty"),
        ([*PIPELINE, '+task.stages.a=["model.path={b}"]', EVALUATE],
         "task.stages.a: model.path={b}: there is no step 'b' before it (none is)"),
        ([*PIPELINE, '+task.stages.a=["stage=sft"]', '+task.evaluate.m=["model.path={x}"]'],
         "task.evaluate.m: model.path={x}: there is no step 'x' before it (a is)"),
        ([*PIPELINE, '+task.stages.a=["stage.max_stepz=1"]', EVALUATE],
         "task.stages.a: stage.max_stepz: there is no such key; did you mean stage.max_steps?"),
        ([*PIPELINE, '+task.stages.a=["stage.max_steps=x"]', EVALUATE],
         "task.stages.a: Error merging override stage.max_steps=x Value 'x' of type 'str' could"),
        ([*PIPELINE, '+task.stages.a=["name={"]', EVALUATE], "task.stages.a: no viable alternat"),
        ([*PIPELINE, '+task.stages.a=["task=evaluate"]', EVALUATE],
         "task.stages.a: task='evaluate' is out of range: train"),
    ],
)  # fmt: skip
def test_it_is_one_line(command: Command, runner, overrides: list[str], said: str) -> None:
    text = str(command(*overrides))
    assert text.startswith(f"error: {said}"), text
    assert "\n" not in text
    assert not list(runner.root.rglob("metrics.jsonl"))


def test_a_trainer_without_its_accelerator_is_told_of(command: Command, runner) -> None:
    runner.overrides.remove("trainer.accelerator=cpu")
    text = command("~trainer.accelerator")
    assert text == "error: trainer.accelerator must be given, e.g. trainer.accelerator=auto"


def test_an_empty_output_root_is_refused(command: Command, runner) -> None:
    runner.overrides = [o for o in runner.overrides if not o.startswith("paths.output_root")]
    for words in (["paths.output_root="], ["-m", "paths.output_root=", "seed=0,1"]):
        assert str(command(*words)).startswith("error: paths.output_root is empty")


def test_no_tracker_and_no_callback_are_choices(runner) -> None:
    folder = runner(*runner.sft, "logger=[]", "~callbacks")
    assert (folder / "metrics.jsonl").exists()
    assert not (folder / "tensorboard").exists()
