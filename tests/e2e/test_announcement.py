"""What a command says before and after its work, and that the commands it ends with work."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from omni_rlvr import cli
from omni_rlvr.assembly.announce import announce_step, announcement
from omni_rlvr.assembly.follow_up import next_commands
from omni_rlvr.assembly.instantiate import check_values, compose_step
from omni_rlvr.tasks.table import register

NO_BUILD = """
import sys
sys.modules["omni_rlvr.tasks.build"] = None  # what imports torch fails, after the announcement
from omni_rlvr.cli import main
try:
    main()
except ImportError:
    print("HEAVY:", *sorted({"torch", "transformers", "pytorch_lightning"} & set(sys.modules)))
"""
TINY = Path(cli.__file__).parent / "models" / "tiny_base"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["+experiment=cold_start"], ["cold_start: task=train stage=sft", f"start    {TINY}",
         "data     cold_start of dataset=synthetic in data/synthetic", "modality video_audio",
         "steps    435 of 8 prompts: 6 epochs of 580 examples"]),  # 580 * 6 / 8 = 435
        (["+experiment=rlvr", f"model.path={TINY}", "stage=dapo", "trainer.devices=2"],
         ["rlvr: task=train stage=grpo", "steps    150 of 16 prompts with 8 completions each",
          "rewards  accuracy x 1, format x 1", "device   auto, devices=2"]),
        (["+experiment=evaluate", f"model.path={TINY}"],
         ["evaluate: task=evaluate", f"model    {TINY}", "data     test, ood of dataset="]),
        (["+experiment=quickstart"], ["train    cold_start, then sft_labels, then rlvr",
         "evaluate base, cold_start, sft_labels, rlvr on test, ood",
         "compare  video, audio, video_audio on test"]),
        (["task=predict", "+video=clip.mp4"], ["data     clip.mp4"]),
        (["+experiment=ablation"], ["start    the run of +experiment=cold_start"]),
    ],
)  # fmt: skip
def test_it_is_said_before_torch_is_imported(
    tmp_path: Path, arguments: list[str], said: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_BUILD, *arguments],
        capture_output=True, text=True, cwd=tmp_path, timeout=60,
    )  # fmt: skip
    told = done.stderr if "task=predict" in arguments else done.stdout
    for line in (*said, "output   outputs/"):
        assert f"\n  {line}" in f"\n  {told}", done
    assert done.stdout.splitlines()[-1].strip() == "HEAVY:"


@pytest.mark.parametrize("arguments", [["stage.beta=-1"], ["seed=-1"], ["+video=clip.mp4"]])
def test_a_wrong_value_is_refused_in_place_of_it(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_BUILD, "stage=grpo", *arguments],
        capture_output=True, text=True, cwd=tmp_path, timeout=60,
    )  # fmt: skip
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {arguments[0].lstrip('+').partition('=')[0]}")


Compose = Callable[..., tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture
def composed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compose]:
    """Composes a command as Hydra's main does, in a folder of its own; gives ``check_values``."""
    monkeypatch.chdir(tmp_path)
    register()

    def make(*overrides: str) -> tuple[dict[str, Any], dict[str, Any]]:
        cfg = compose("config", overrides=list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        del cfg.hydra
        return check_values(cfg)

    with initialize_config_dir(cli.conf_dir(), version_base="1.3"):
        yield make
    HydraConfig.instance().cfg = None


def test_steps_where_the_examples_are_not_counted_yet(composed: Compose) -> None:
    config, typed = composed("stage=sft", "dataset=r1_omni", "dataset.root=clips")
    lines = [*announcement(config, typed, Path("outputs/x"))]
    assert "  steps    5 epochs, 16 prompts per step" in lines
    config, typed = composed("stage=sft", "stage.max_steps=7", "resume=outputs/train/latest")
    lines = [*announcement(config, typed, Path("outputs/train/latest"))]
    assert "  start    resume=outputs/train/latest" in lines
    assert "  steps    7 of 16 prompts" in lines


def test_the_steps_of_the_quickstart_in_80_columns(composed: Compose, capsys) -> None:
    task = composed("+experiment=quickstart")[1]["task"]
    run = Path("outputs/quickstart/2026-11-30_12-00-00+0000")
    groups = (task.stages, task.evaluate, task.modality)
    said: dict[str, str] = {}
    for name, overrides in [step for group in groups for step in group.items()]:
        filled = [re.sub(r"{(\w+)}", rf"{run}/\1/checkpoint", text) for text in overrides]
        announce_step(compose_step(filled), run / name, said)
    lines = capsys.readouterr().out.splitlines()
    assert f"  start    {run}/cold_start/checkpoint" in lines
    assert max(len(line) for line in lines if str(TINY) not in line) <= 80


def test_a_pipeline_says_of_each_step_what_is_new(command, runner, capsys) -> None:
    shared = [*runner.overrides, "stage.batch_size=3", "dataset.train_split=train"]
    evaluate = ", ".join(f'"{text}"' for text in runner.evaluate)
    code = command(
        "task=pipeline",
        "task.splits=[test]",
        f"task.shared=[{', '.join(repr(text) for text in shared)}]",
        '+task.stages.one=["stage=sft", "stage.max_steps=1"]',
        '+task.stages.two=["stage=sft", "stage.max_steps=2", "model.path={one}"]',
        f'+task.evaluate.two=[{evaluate}, "model.path={{two}}"]',
        f'+task.modality.audio=[{evaluate}, "model.path={{two}}", "modality=audio"]',
    )
    assert code == 0
    out = capsys.readouterr().out
    (run,) = (runner.root / "pipeline").glob("2*")
    given = dict(text.split("=", 1) for text in runner.overrides)
    start, root = given["model.path"], given["dataset.root"]

    def said(step: str) -> str:
        lines = out.partition(f"\n== {step}\n")[2].splitlines()
        return " ".join(" ".join(itertools.takewhile(lambda line: line[:2] == "  ", lines)).split())

    assert said("one") == (
        f"start {start} data train of dataset=r1_omni in {root} modality video_audio "
        "steps 1 of 3 prompts device cpu, devices=1"
    )
    assert said("two") == f"start {run}/one/checkpoint steps 2 of 3 prompts"
    evaluated = f"model {run}/two/checkpoint data test of dataset=r1_omni in {root}"
    assert said("evaluate two") == evaluated
    assert said("evaluate modality audio") == f"model {run}/two/checkpoint modality audio"


def following_of(config, typed, run: Path, clip: str | None) -> list[list[str]]:
    return next_commands(config, typed, run, clip, HydraConfig.get())


FILES = ("dataset.root=clips", "dataset.annotations.train=a.json")


@pytest.mark.parametrize(
    ("command", "following"),
    [
        (["+experiment=cold_start", "stage.num_train_epochs=3", "optimizer.lr=0.1"],
         ["+experiment=rlvr model.path=o/x/r/checkpoint",
          "+experiment=evaluate model.path=o/x/r/checkpoint",
          "+experiment=predict model.path=o/x/r/checkpoint +video=v/a.mp4"]),
        (["+experiment=rlvr", f"model.path={TINY}", "seed=3", "modality=video",
          "trainer.num_nodes=2"],
         ["+experiment=evaluate modality=video model.path=o/x/r/checkpoint",
          "+experiment=attribute modality=video model.path=o/x/r/checkpoint"]),
        # its own family, the data of the command line, and no split without a file
        (["+experiment=r1_omni/cold_start", *FILES, "dataset.train_split=train", "+hardware=24gb"],
         [f"+experiment=r1_omni/rlvr {' '.join(FILES)} +hardware=24gb model.path=o/x/r/checkpoint",
          f"+experiment=predict dataset=r1_omni model=humanomni_0_5b {' '.join(FILES)} "
          "model.path=o/x/r/checkpoint +video=v/a.mp4"]),
        (["+experiment=qwen2_5_omni/rlvr", *FILES, "dataset.annotations.test=b.json",
          "+hardware=48gb", "model.path=x"],
         [f"+experiment=qwen2_5_omni/evaluate {' '.join(FILES)} dataset.annotations.test=b.json "
          "model.path=o/x/r/checkpoint",
          f"+experiment=attribute dataset=r1_omni model=qwen2_5_omni_3b {' '.join(FILES)} "
          "dataset.annotations.test=b.json model.path=o/x/r/checkpoint"]),
        # what trains is left out where nothing does; splits that the data set lacks too
        (["+experiment=cold_start", "dataset=ravdess", "dataset.root=r", "model/trainable=lora"],
         ["+experiment=rlvr dataset=ravdess dataset.root=r model/trainable=lora "
          "model.path=o/x/r/checkpoint",
          "+experiment=evaluate dataset=ravdess dataset.root=r model.path=o/x/r/checkpoint "
          "'task.splits=[test]'"]),
        (["+experiment=evaluate", f"model.path={TINY}"],
         [f"+experiment=attribute model.path={TINY}", "task=report runs=o/x"]),
        (["+experiment=attribute", f"model.path={TINY}"], ["task=report runs=o/x/r +html=true"]),
        (["+experiment=quickstart"], ["+experiment=attribute model.path=o/x/r/rlvr/checkpoint"]),
    ],
)  # fmt: skip
def test_what_follows(composed: Compose, command: list[str], following: list[str]) -> None:
    config, typed = composed(*command)
    found = [shlex.join(each) for each in following_of(config, typed, Path("o/x/r"), "v/a.mp4")]
    assert found[: len(following)] == following
    assert len(found) == 3


def test_a_path_with_signs_of_hydra_and_the_shell(composed: Compose, tmp_path: Path) -> None:
    config, typed = composed("+experiment=rlvr", f"model.path={TINY}")
    first, *_ = following_of(config, typed, Path("it's=a, run"), None)
    (config, _) = composed(*shlex.split(shlex.join(first)))
    assert config["model"]["path"] == "it's=a, run/checkpoint"


def ended_with(out: str) -> list[list[str]]:
    """The arguments of the commands that a command ended with."""
    lines = out.partition("\nnext:\n")[2].replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines]
    assert all(command[0] == "omni-rlvr" for command in commands)
    return [command[1:] for command in commands]


def test_the_commands_work_as_they_are(command, runner, capsys, monkeypatch) -> None:
    assert command("+experiment=cold_start", "stage.max_steps=2", "stage.batch_size=3") == 0
    out = capsys.readouterr().out
    (run,) = (runner.root / "cold_start").glob("2*")
    assert f"\noutput: {run}\n  checkpoint/  checkpoints/  " in out
    rlvr, evaluate, predict = ended_with(out)
    assert rlvr[0] == "+experiment=rlvr"
    for arguments in ([*rlvr, "stage.max_steps=1", "stage.batch_size=2"], evaluate, predict):
        monkeypatch.setattr(runner, "overrides", [])
        assert command(*arguments) == 0
    assert (runner.root / "evaluate" / "latest" / "test" / "metrics.json").exists()
    assert (runner.root / "predict" / "latest" / "predictions.jsonl").exists()


@pytest.mark.parametrize(("columns", "is_drawn"), [("120", True), ("99", False)])
def test_a_chart_on_a_wide_terminal(command, capsys, monkeypatch, columns, is_drawn) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, for rich
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", columns)
    arguments = ("stage.max_steps=3", "stage.batch_size=3", "~callbacks.progress")
    assert command("+experiment=cold_start", *arguments) == 0
    assert ("\nloss: " in capsys.readouterr().out) == is_drawn
