"""Runs that were copied, damaged, or written where no links can be made: found, named, gone on
with.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from test_resume import interrupted, steady

from omni_rlvr.record import read_json
from omni_rlvr.tasks.table import register
from omni_rlvr.types import UserError


@pytest.fixture
def sft(runner) -> tuple[str, ...]:
    """Four steps, a checkpoint after each."""
    return (*runner.sft, "stage.max_steps=4", "stage.save_steps=1", "callbacks={}")


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that makes no symbolic links, as exFAT, SMB and cloud drives."""

    def refuse(*_, **__) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", refuse)


def test_a_disk_without_links_holds_whole_runs(runner, sft, no_links: None, tmp_path: Path) -> None:
    whole = runner(*sft, "name=whole")
    folder = interrupted(runner, 2, *sft)
    latest = runner.root / "train" / "latest"
    assert latest.read_text() == f"{folder.name}\n"
    assert (folder / "checkpoint").read_text() == "checkpoints/step_000002\n"
    runner(*sft, "resume=latest")
    assert steady(folder) == steady(whole)
    assert (folder / "checkpoint").read_text() == "checkpoints/step_000004\n"
    path = runner.compose("model.path=${latest:train}").model.path
    assert path == str(folder / "checkpoints" / "step_000004")
    scores = runner(*runner.evaluate, f"model.path={latest}/checkpoint", "name=scores")
    assert (scores / "test" / "metrics.json").exists()
    for place in ("scores", "scores/latest", "*/latest", "scores/lat*"):
        report = runner("task=report", f"runs={runner.root}/{place}", "name=report")
        assert "scores" in (report / "runs.csv").read_text() or place.startswith("scores")
    runner("task=export", f"model.path={latest}/checkpoint", f"task.to={tmp_path}/export")
    assert (tmp_path / "export" / "model.safetensors").exists()
    names = sorted(path.name for path in (runner.root / "train").iterdir())
    assert names == [folder.name, "latest"]  # nothing half made


def test_a_run_copied_with_links_followed_goes_on_and_the_next_one_begins(runner, sft) -> None:
    whole = runner(*sft, "name=whole")
    folder = interrupted(runner, 2, *sft)
    copied = runner.root.with_name("copied")
    shutil.copytree(runner.root, copied)  # latest and checkpoint are folders now
    (copied / "train" / ".latest.99").symlink_to("gone")
    runner.overrides = [o.replace(str(runner.root), str(copied)) for o in runner.overrides]
    runner.root = copied
    run = runner(*sft, f"resume={copied}/train/{folder.name}")
    assert steady(run) == steady(whole)
    assert (copied / "train" / "latest").resolve() == run
    weights = [(f / "checkpoint" / "model.safetensors").read_bytes() for f in (run, whole)]
    assert weights[0] == weights[1]


def test_only_latest_was_copied_and_goes_on_under_that_name(runner, sft) -> None:
    interrupted(runner, 2, *sft)
    home = runner.root / "train"
    content = (home / "latest").resolve()
    (home / "latest").unlink()
    content.rename(home / "latest")
    assert runner(*sft, "resume=latest") == home / "latest"
    assert read_json(home / "latest" / "run.json")["status"] == "finished"
    new = runner(*sft)
    assert (home / "latest").resolve() == new
    assert len([path for path in home.iterdir() if (path / "run.json").exists()]) == 3


def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(runner, sft) -> None:
    whole = runner(*sft, "name=whole")
    folder = interrupted(runner, 3, *sft)
    weights = folder / "checkpoint" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    before = folder / "checkpoints" / "step_000002"
    wrong = rf"model\.safetensors is not as it was written .*resume={before} goes on"
    with pytest.raises(UserError, match=wrong):
        runner(*sft, "resume=latest")
    with pytest.raises(
        UserError, match=rf"is not as it was written .*model\.path={before} is undamaged"
    ):
        runner(*runner.evaluate, f"model.path={folder}/checkpoint")
    runner(*sft, f"resume={before}")  # as the message says
    assert steady(folder) == steady(whole)
    (folder / "checkpoint" / "trainer_state.pt").unlink()
    with pytest.raises(UserError, match=r"trainer_state\.pt is missing; resume=.*step_000003 goes"):
        runner(*sft, "resume=latest")
    (folder / "run.json").write_text("")
    with pytest.raises(UserError, match=r"run\.json cannot be read: it is empty.*model\.path="):
        runner(*sft, f"resume={folder}/checkpoints/step_000003")


def test_what_changes_no_number_may_differ_at_resume_and_is_told(
    runner, sft, clips: Path, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = runner(*sft, "name=whole")
    folder = interrupted(runner, 2, *sft)
    shutil.copytree(clips, tmp_path / "disk" / "clips")
    shutil.copytree(checkpoint, tmp_path / "disk" / "base")
    moved = (
        f"dataset.root={tmp_path}/disk/clips",
        f"dataset.annotations.train={tmp_path}/disk/clips/train.json",
        f"model.path={tmp_path}/disk/base",
        "logger=[csv]",
        "stage.save_steps=2",
        "stage.save_total_limit=1",
        "stage.micro_batch_size=64",
        "dataset.num_workers=1",
        "dataset.decode_timeout_s=30",
        f"resume={folder}",
    )
    with caplog.at_level(logging.INFO):
        runner(*sft, *moved)
    assert f"resume: dataset.root ('{clips}' then, '{tmp_path}/disk/clips' now)" in caplog.text
    assert "resume: stage.save_steps (1 then, 2 now)" in caplog.text
    assert steady(folder) == steady(whole)


def test_another_model_or_other_examples_are_refused_at_resume(
    runner, sft, clips: Path, tmp_path: Path
) -> None:
    folder = interrupted(runner, 2, *sft)
    rows = (clips / "train.json").read_text().replace("happy", "sad")
    (tmp_path / "other.json").write_text(rows)
    with pytest.raises(UserError, match="leads to other training examples"):
        runner(*sft, f"resume={folder}", f"dataset.annotations.train={tmp_path}/other.json")
    with pytest.raises(UserError, match=r"does not hold the weights of .*, which .* started from"):
        runner(*sft, f"resume={folder}", f"model.path={folder}/checkpoint")
    for changed in ("seed=1", "optimizer.lr=0.01", "modality=video", "model.dtype=bfloat16"):
        with pytest.raises(UserError, match=r"the config differs from the run's in"):
            runner.build(*sft, f"resume={folder}", changed)
    term = ("+reward.terms.x._target_=case_signals.Spread", "+reward.weights.x=1")
    with pytest.raises(UserError, match=r"differs from the run's in reward\.terms\.x"):
        runner.build(*sft, f"resume={folder}", *term)


def test_an_option_that_came_later_is_no_difference(runner, sft) -> None:
    folder = interrupted(runner, 2, *sft)
    record = read_json(folder / "run.json")
    del record["config"]["stage"]["save_total_limit"], record["origin"]
    record["config"]["stage"].pop("max_grad_norm")
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "checkpoint" / "SHA256SUMS").unlink()  # all of it as of an earlier version
    runner(*sft, f"resume={folder}")
    assert read_json(folder / "run.json")["status"] == "finished"


def test_commands_of_one_second_have_a_folder_each(tmp_path: Path) -> None:
    register()
    config = {"root": str(tmp_path), "folder": "${run_dir:${.root},rlvr,null}"}
    made = [OmegaConf.create(config).folder for _ in range(5)]
    assert len({*made}) == 5
    assert all(Path(folder).is_dir() for folder in made)


def test_where_the_link_was_lost_the_run_is_named(runner, sft) -> None:
    folder = interrupted(runner, 2, *sft)
    (runner.root / "train" / "latest").unlink()
    (folder / "checkpoint").unlink()
    with pytest.raises(UserError, match=rf"resume={folder} would go on with one that has"):
        runner.build(*sft, "resume=latest")
    with pytest.raises(Exception, match=rf"model\.path={folder}/checkpoint uses the newest"):
        _ = runner.compose("model.path=${latest:train}").model.path
    runner(*sft, f"resume={folder}")
    assert (folder / "checkpoint").resolve().name == "step_000004"
