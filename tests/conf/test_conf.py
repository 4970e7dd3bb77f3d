"""Every option and experiment composes and is checked; a mistake fails by name, early."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from omni_rlvr.build import check
from omni_rlvr.cli import conf_dir
from omni_rlvr.config.store import register
from omni_rlvr.types import UserError

CONF = Path(__file__).parents[2] / "conf"
TASKS = ("train", "evaluate", "preview", "pipeline", "report")
USED_BY = {
    "dataset": ("train", "evaluate", "preview"),
    "modality": ("train", "evaluate", "preview"),
    "model": ("train", "evaluate"),
    "stage": ("train",),
    "reward": ("train",),
    "optimizer": ("train",),
    "trainer": ("train",),
    "logger": ("train",),
    "callbacks": ("train",),
    "paths": TASKS,
}
"""Which tasks read a group; a new group must be entered here."""
NOT_A_PART = {"task", "hydra", "experiment", "debug", "sweep"}
STORED = {"task": TASKS, "stage": ("sft", "grpo")}
"""Options that are dataclasses and have no file."""
NEEDED = {
    "preview": ["task.split=test"],
    "report": ["runs=outputs"],
    "pipeline": ["+task.stages.a=[x]", "task.splits=[test]", "+task.evaluate.a=[]"],
    "r1_omni": ["dataset.root=clips", "dataset.annotations.train=a.json"],
}
"""What an option cannot do without."""
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


def options(group: str) -> list[str]:
    """All options of a group."""
    files = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    return files or list(STORED[group])


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        yield


def composed(*overrides: str) -> DictConfig:
    """Composes a config."""
    return compose("config", overrides=list(overrides))


@pytest.fixture
def cold_start(tmp_path: Path) -> str:
    """An output root with a run of cold_start and rlvr to go on from."""
    for name in ("cold_start", "rlvr"):
        (tmp_path / name / "run" / "checkpoint").mkdir(parents=True)
        (tmp_path / name / "latest").symlink_to("run")
    return f"paths.output_root={tmp_path}"


def test_every_group_is_known() -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir()} | set(STORED)
    assert groups - NOT_A_PART == set(USED_BY)


@pytest.mark.parametrize(
    ("task", "choice"),
    [
        (task, f"{group}={option}")
        for group, tasks in USED_BY.items()
        for option in options(group)
        for task in tasks
    ],
)
def test_every_option_composes_with_every_task_that_uses_it(task: str, choice: str) -> None:
    option = choice.partition("=")[2]
    cfg = composed(f"task={task}", choice, *NEEDED.get(task, []), *NEEDED.get(option, []))
    config, typed = check(cfg)
    assert config["task"]["name"] == typed["task"].name == task


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_is_checked(name: str, cold_start: str) -> None:
    config, _ = check(composed(f"+experiment={name}", cold_start))
    assert config["name"] == name  # outputs/<experiment>/


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_what_it_asks(name: str) -> None:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert lines[0] == "# @package _global_"
    for word in ("Question:", "Command:", "Time:"):
        assert word in header
    assert f"omni-rlvr +experiment={name}" in header


def test_debug_shortens_any_training(cold_start: str) -> None:
    for option in options("debug"):
        for name in ("cold_start", "rlvr", "sft_labels"):
            _, typed = check(composed(f"+experiment={name}", f"+debug={option}", cold_start))
            assert typed["stage"].max_steps <= 5


WRONG = {
    "stage.betta=1": "betta",
    "stage.beta.x=1": "beta",
    "sedd=1": "sedd",
    "dataset.num_worker=1": "num_worker",
    "modality.sound=true": "sound",
    "task.splits=[test]": "splits",
    "seed=abc": "seed",
    "seed=1.5": "seed",
    "stage.beta=much": "beta",
    "stage.num_generations=1.5": "num_generations",
    "stage.sampling.top_k=half": "top_k",
    "dataset.num_workers=many": "num_workers",
    "modality.video=maybe": "video",
    "modality=smell": "modality",
    "stage=ppo": "stage",
    "dataset=nothing": "dataset",
    "+experiment=nothing": "experiment",
}
"""Override -> what the message must name."""


@pytest.mark.parametrize("override", WRONG)
def test_a_typo_or_a_wrong_type_fails_while_composing(override: str) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException)) as error:
        composed("stage=grpo", override)
    assert WRONG[override] in str(error.value)


def refused(*overrides: str) -> str:
    """The error of a config that composes and is then refused."""
    with pytest.raises(UserError) as error:
        check(composed(*overrides))
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "key", "argument"),
    [
        ("+optimizer.learning_rate=0.1", "optimizer", "learning_rate"),
        ("+model.pth=x", "model", "pth"),
        ("+reward.weight.format=1", "reward", "weight"),
        ("+reward.terms.accuracy.synonym.a=b", "reward.terms.accuracy", "synonym"),
        ("+trainer.clip=1", "trainer", "clip"),
        ("+callbacks.progress.name=x", "callbacks.progress", "name"),
        ("+dataset.splits.test.number=1", "dataset.splits.test", "number"),
        ("~model.dtype", "model", "dtype"),
        ("~reward.weights", "reward", "weights"),
    ],
)
def test_arguments_are_bound_to_the_signature_of_their_target(
    override: str, key: str, argument: str
) -> None:
    message = refused(override)
    assert message.startswith(f"{key}: ")
    assert f"'{argument}'" in message


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("torch.optim.AdamV", "cannot be imported"),
        ("nowhere.Adam", "cannot be imported"),
        ("Adam", "cannot be imported"),
        ("torch.pi", "not callable"),
    ],
)
def test_a_target_that_does_not_exist_is_named(target: str, message: str) -> None:
    error = refused(f"optimizer._target_={target}")
    assert error.startswith(f"optimizer._target_={target}")
    assert message in error
