"""A write that fails or is killed costs no checkpoint; a good one takes its place in one step."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from every_case import every_case

from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.pointers import point_to
from omni_rlvr.training import checkpoint as module
from omni_rlvr.training.checkpoint import load_state, save_checkpoint
from omni_rlvr.types import UserError


class SmallPolicy:
    """Writes one number: enough to tell one checkpoint from another."""

    trained_on = None

    def __init__(self, number: int):
        self.number = number
        self.config = SimpleNamespace(model_type="small")

    def towers(self) -> dict:
        return {}

    def save(self, folder: Path) -> None:
        (folder / "weights").write_text(str(self.number))


def save(run: Path, step: int, number: int | None = None, keep: int = 1) -> Path:
    policy = SmallPolicy(step if number is None else number)
    return save_checkpoint(run, policy, {"num_tokens": 10 * step}, step=step, keep=keep)


def current(run: Path) -> tuple[str, int]:
    """What a reader of the run finds: the policy's number and the trainer's step."""
    return (run / "checkpoint" / "weights").read_text(), load_state(run / "checkpoint")["step"]


def folders(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_the_last_few_are_kept_and_what_will_be_done_again_is_not(tmp_path):
    for step in (10, 20, 30, 40):
        save(tmp_path, step, keep=3)
    assert folders(tmp_path) == ["step_000020", "step_000030", "step_000040"]
    (tmp_path / "checkpoints" / ".step_000050.partial").mkdir()  # of a kill
    point_to(tmp_path / "checkpoint", tmp_path / "checkpoints" / "step_000020")  # gone back to
    save(tmp_path, 30, number=7, keep=2)
    assert folders(tmp_path) == ["step_000020", "step_000030"]
    assert current(tmp_path) == ("7", 30)


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def refuse(*args, **kwargs):
    raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing")


def half_a_save(self, folder: Path) -> None:
    (folder / "weights").write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


FAILURES = {
    "weights": (SmallPolicy, "save", half_a_save),
    "trainer state": (torch, "save", refuse),
    "rename": (os, "replace", full_disk),
    "link": (module, "point_to", full_disk),
}


@pytest.mark.parametrize("step", [20, 10], ids=["next step", "same step again"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failing_write_leaves_the_last_good_one(tmp_path, monkeypatch, failure, step):
    save(tmp_path, 10)
    with monkeypatch.context() as patch:
        patch.setattr(*FAILURES[failure])
        with pytest.raises(UserError, match="cannot write checkpoint") as caught:
            save(tmp_path, step, number=99)
    assert "the last good one is" in str(caught.value)
    assert str(tmp_path / "checkpoints" / "step_000010") in str(caught.value)
    assert current(tmp_path) == ("10", 10)
    assert not list((tmp_path / "checkpoints").glob(".*"))  # room is given back
    save(tmp_path, 30)  # and the next write works
    assert current(tmp_path) == ("30", 30)
    assert folders(tmp_path) == ["step_000030"]


def test_a_failing_first_write_says_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(SmallPolicy, "save", full_disk)
    with pytest.raises(UserError, match=r"No space left on device.*there is none before it"):
        save(tmp_path, 10)
    assert not (tmp_path / "checkpoint").exists()


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, nothing is tidied up."""


def killed(*args, **kwargs):
    raise Killed


@pytest.mark.parametrize("step", [20, 10], ids=["next step", "same step again"])
@pytest.mark.parametrize(
    "where", [(SmallPolicy, "save"), (torch, "save"), (os, "replace"), (module, "point_to")]
)
def test_a_killed_write_disturbs_nothing(tmp_path, monkeypatch, where, step):
    save(tmp_path, 10)
    with monkeypatch.context() as patch:
        patch.setattr(*where, killed)
        with pytest.raises(Killed):
            save(tmp_path, step, number=99)
    assert current(tmp_path) == ("10", 10)
    save(tmp_path, step, number=7)
    assert current(tmp_path) == ("7", step)
    assert len(folders(tmp_path)) == 1  # what the killed write left is gone


def test_a_partial_folder_of_the_same_step_is_not_mixed_in(tmp_path):
    partial = tmp_path / "checkpoints" / ".step_000010.partial"
    partial.mkdir(parents=True)
    (partial / "model-00002.safetensors").write_text("old")
    folder = save(tmp_path, 10)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "SHA256SUMS",
        "trainer_state.pt",
        "weights",
    ]


def test_only_the_newest_is_kept_and_the_link_is_relative(tmp_path):
    for step in (10, 20, 30):
        save(tmp_path, step)
        assert current(tmp_path) == (str(step), step)
    assert folders(tmp_path) == ["step_000030"]
    assert (tmp_path / "checkpoint").readlink() == Path("checkpoints/step_000030")
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "_moved"))
    assert current(moved) == ("30", 30)


def test_the_link_never_dangles(tmp_path, monkeypatch):
    """At every call that changes the disk, a reader finds a whole checkpoint."""
    save(tmp_path, 10)
    seen = []

    def watch(owner, name):
        real = getattr(owner, name)

        def watched(*args, **kwargs):
            before = current(tmp_path)
            result = real(*args, **kwargs)
            seen.append((before, current(tmp_path)))
            return result

        monkeypatch.setattr(owner, name, watched)

    for owner, name in ((os, "replace"), (module.shutil, "rmtree"), (os, "symlink")):
        watch(owner, name)
    for step in (20, 20, 20, 30):
        save(tmp_path, step, number=step)
    assert {state for pair in seen for state in pair} == {("10", 10), ("20", 20), ("30", 30)}


def test_the_same_step_can_be_saved_again_and_again(tmp_path):
    for number in range(4):
        save(tmp_path, 10, number=number)
        assert current(tmp_path) == (str(number), 10)
        assert len(folders(tmp_path)) == 1


def test_a_real_policy_comes_back(tiny_policy, make_batch, tmp_path):
    save_checkpoint(tmp_path, tiny_policy, {"optimizer": {}}, step=5, keep=1)
    loaded = load_policy(str(tmp_path / "checkpoint"), "float32", None)
    for name, value in tiny_policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_a_real_policy_survives_a_full_disk(tiny_policy, tmp_path, monkeypatch):
    save_checkpoint(tmp_path, tiny_policy, {}, step=5, keep=1)
    before = {name: value.clone() for name, value in tiny_policy.state_dict().items()}
    with torch.no_grad():
        tiny_policy.language_model.model.norm.weight.add_(1)
    monkeypatch.setattr(type(tiny_policy), "save", full_disk)
    with pytest.raises(UserError):
        save_checkpoint(tmp_path, tiny_policy, {}, step=6, keep=1)
    loaded = load_policy(str(tmp_path / "checkpoint"), "float32", None)
    assert all(torch.equal(value, before[name]) for name, value in loaded.state_dict().items())


def draw() -> tuple[list[float], float, float]:
    return torch.rand(3).tolist(), random.random(), float(np.random.rand())


def test_random_number_generators_come_back(tmp_path):
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)
    random.gauss(0, 1)  # leaves a second number waiting: part of the state
    save(tmp_path, 10)
    expected = draw()
    assert draw() != expected
    load_state(tmp_path / "checkpoint")
    assert draw() == expected


def test_the_optimizer_comes_back(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.square().sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path, SmallPolicy(1), {"optimizer": optimizer.state_dict()}, step=1, keep=1)
    other = torch.optim.AdamW([torch.nn.Parameter(weight.detach().clone())], lr=0.5)
    other.load_state_dict(load_state(tmp_path / "checkpoint")["optimizer"])
    mine, theirs = optimizer.state_dict(), other.state_dict()
    assert theirs["param_groups"] == mine["param_groups"]
    assert torch.equal(theirs["state"][0]["exp_avg"], mine["state"][0]["exp_avg"])


def test_resuming_a_run_without_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match=r"resume: .*trainer_state\.pt cannot be .*No such file"):
        load_state(tmp_path / "checkpoint")


@every_case("share", [0, 0.1, 0.9, None])
def test_a_torn_or_foreign_trainer_state_is_one_line_and_says_what_to_do(tmp_path, share):
    path = save(tmp_path, 10) / "trainer_state.pt"
    data = path.read_bytes()
    path.write_bytes(b"not a checkpoint" if share is None else data[: round(share * len(data))])
    with pytest.raises(UserError, match=r"_state\.pt cannot be read .*model\.path=") as caught:
        load_state(tmp_path / "checkpoint")
    assert "\n" not in str(caught.value)
