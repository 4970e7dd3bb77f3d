"""Ways to start several processes that do not fit the config: refused with both numbers."""

from __future__ import annotations

import pytest

from omni_rlvr.ranks import rendezvous
from omni_rlvr.ranks.environment import Started
from omni_rlvr.tasks.launch import Launch
from omni_rlvr.types import UserError


@pytest.fixture
def met(monkeypatch: pytest.MonkeyPatch):
    """Lets this process be one of several that have met; the others do not exist."""

    def met(world_size: int, by: str) -> None:
        how = Started(0, world_size, 0, "localhost", 1, by)
        monkeypatch.setattr(rendezvous, "started", lambda: how)

    return met


@pytest.mark.parametrize(
    ("own", "why"),
    [
        (
            ["trainer.devices=2"],
            r"^trainer\.devices=2 x trainer\.num_nodes=1 is 2 processes, but 3 were started by",
        ),
        (["trainer.devices=4"], "is 4 processes, but 3 were started by torchrun; make them equal"),
        (["trainer.devices=3", "trainer.num_nodes=2"], "is 6 processes, but 3 were started by"),
        (["trainer.num_nodes=3", "task=serve"], "^task=serve runs in one process, but 3 were"),
        (["trainer.num_nodes=3", "stage.batch_size=4"], r"batch_size=4 .*num_nodes=3: 3 devices"),
        (["trainer.num_nodes=0"], r"^trainer\.num_nodes=0"),
        (["trainer.num_nodes=two"], r"^trainer\.num_nodes='?two"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(runner, met, own: list[str], why: str) -> None:
    met(3, "torchrun")
    with pytest.raises(UserError, match=why):
        runner.build("stage.batch_size=12", *own)


def test_tasks_of_a_launcher_that_have_not_met_are_refused(runner, monkeypatch) -> None:
    variables = {"STEP_NUM_TASKS": "2", "PROCID": "1", "LOCALID": "1", "STEP_NODELIST": "a"}
    for name, value in {**variables, "JOB_ID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(UserError, match=r"^2 processes were started by srun, but not by the comma"):
        runner.build()


def test_several_machines_want_a_process_on_each(runner, met) -> None:
    with pytest.raises(UserError, match=r"^trainer\.num_nodes=2: this command was started alone"):
        runner.build("trainer.num_nodes=2")
    met(2, "RANK and WORLD_SIZE")
    parts, _ = runner.build("trainer.num_nodes=2", "trainer.devices=2", "stage.batch_size=4")
    assert isinstance(parts, Launch)  # each machine starts its own two
    assert parts.devices == [0, 1]


def test_a_sweep_in_each_of_several_processes_is_refused(command, runner, met) -> None:
    met(2, "srun")
    text = command("-m", "seed=0,1", "stage=sft", "name=swept")
    assert str(text).startswith("error: -m: a sweep starts the processes of each run itself")
    assert "but 2 were started by srun" in str(text)
    assert not (runner.root / "swept").exists()
