"""No room for a checkpoint: the last good one stays and loads, and the user sees why."""

from __future__ import annotations

import errno
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback
from safetensors import SafetensorError

from omni_rlvr import record
from omni_rlvr.models.composed.model import OmniModel
from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.record import read_json
from omni_rlvr.tasks.train import run
from omni_rlvr.types import UserError


class After(Callback):
    """Does something after a step, before its checkpoint is written."""

    def __init__(self, step: int, action: Callable[[], None]):
        self.step = step
        self.action = action

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int) -> None:
        if pl_module.step == self.step:
            self.action()


@pytest.fixture
def small_files() -> Iterator[Callable[[], None]]:
    """Gives a function after which no file may exceed a megabyte, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def checkpoint_fails(runner, action: Callable[[], None]) -> tuple[Path, str]:
    """Runs four steps with a checkpoint after each, whose second write fails."""
    parts, folder = runner.build(*runner.sft, "stage.max_steps=4", "stage.save_steps=1")
    with pytest.raises(UserError, match="cannot write checkpoint") as error:
        run(replace(parts, callbacks=[*parts.callbacks, After(2, action)]))
    return folder, str(error.value)


def test_no_room_for_a_checkpoint_keeps_the_last_good_one(runner, small_files) -> None:
    folder, message = checkpoint_fails(runner, small_files)
    assert "the last good one is" in message
    assert "File too large" in message  # what the system said; of a full disk, that it is full
    assert message.endswith("step_000001")
    assert (folder / "checkpoint").resolve().name == "step_000001"
    load_policy(str(folder / "checkpoint"), "float32", None)
    assert torch.load(folder / "checkpoint" / "trainer_state.pt")["step"] == 1
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step_000001"]
    assert read_json(folder / "run.json")["status"] == "failed"


def test_a_disk_so_full_that_nothing_can_be_said_still_gives_the_error(
    runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill() -> None:
        monkeypatch.setattr(OmniModel, "save", full)
        monkeypatch.setattr(record, "write_json", full)

    folder, _ = checkpoint_fails(runner, fill)
    load_policy(str(folder / "checkpoint"), "float32", None)


def test_a_run_with_no_checkpoint_yet_says_so(runner, small_files) -> None:
    parts, folder = runner.build(*runner.sft, "stage.max_steps=1")
    with pytest.raises(UserError, match="there is none before it"):
        run(replace(parts, callbacks=[*parts.callbacks, After(1, small_files)]))
    assert not (folder / "checkpoint").exists()
    assert not (runner.root / "train" / "latest").exists()  # it would lead a later stage nowhere


def test_a_full_disk_in_safetensors_words_keeps_the_last_good_one(
    runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    folder, message = checkpoint_fails(
        runner, lambda: monkeypatch.setattr(OmniModel, "save_pretrained", full)
    )
    assert "No space left on device" in message
    assert message.endswith("step_000001")
    load_policy(str(folder / "checkpoint"), "float32", None)
    assert "No space left on device" in read_json(folder / "run.json")["error"]
