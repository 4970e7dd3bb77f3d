"""Adapters on composed parts: their base is in no folder, so that the run writes it, once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from case_parts import make_parts
from test_lora_runs import FILES, answers
from test_resume import grpo, interrupted, steady

from omni_rlvr.models.loading.load import load_policy
from omni_rlvr.types import UserError

LORA = ("model/trainable=lora", "model.trainable.lora.r=4", "optimizer.lr=0.01")


@pytest.fixture(scope="module")
def composed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that compose a tiny model."""
    tokenizer = load_policy(str(checkpoint), "float32", None).processor.tokenizer
    folders = make_parts(tmp_path_factory.mktemp("parts"), tokenizer)
    keys = ("vision_tower", "audio_tower", "language_model")
    return [
        "model=compose",
        "model.path=null",
        "model.parts.audio_merge=5",
        "model.parts.num_frames=2",
        *(f"model.parts.{key}={folders[key]}" for key in keys),
    ]


def test_the_base_is_written_once_and_all_goes_on_from_it(
    runner, composed: list[str], tmp_path: Path
) -> None:
    run = (*composed, *grpo(runner, *LORA))
    whole = runner(*run)
    assert (whole / "base" / "model.safetensors").exists()
    noted = json.loads((whole / "checkpoint" / "base.json").read_text())
    assert noted["path"] == str(whole / "base")
    parted = interrupted(runner, 2, *run)
    before = (parted / "base" / "model.safetensors").stat().st_mtime_ns
    assert runner(*run, "resume=latest") == parted
    assert (parted / "base" / "model.safetensors").stat().st_mtime_ns == before
    assert steady(parted) == steady(whole)
    for file in FILES:
        both = [(folder / "checkpoint" / file).read_bytes() for folder in (parted, whole)]
        assert both[0] == both[1]
    start = f"model.path={whole}/checkpoint"
    said = answers(runner(*runner.evaluate, start))
    assert answers(runner(*runner.evaluate, *composed, start)) == said
    runner("task=export", start, f"task.to={tmp_path}/merged")
    assert answers(runner(*runner.evaluate, f"model.path={tmp_path}/merged")) == said
    on = runner(*runner.sft, *LORA, start)
    assert json.loads((on / "checkpoint" / "base.json").read_text())["path"] == noted["path"]
    moved = shutil.copytree(whole, tmp_path / "moved", symlinks=True)
    shutil.rmtree(whole)
    assert answers(runner(*runner.evaluate, f"model.path={moved}/checkpoint")) == said


def test_the_base_can_be_given_a_folder(runner, composed: list[str], tmp_path: Path) -> None:
    base = tmp_path / "bases" / "mine"
    run = (*composed, *runner.sft, *LORA, "stage.max_steps=1", f"model.base={base}")
    folder = runner(*run)
    assert not (folder / "base").exists()
    assert json.loads((folder / "checkpoint" / "base.json").read_text())["path"] == str(base)
    with pytest.raises(UserError, match=rf"^model\.base={base} is there already; start from it"):
        runner.build(*run)
    runner(*runner.sft, *LORA, "model=compose", f"model.path={base}", "stage.max_steps=1")


def test_what_cannot_be_written_shows_before_anything_is_loaded(
    runner, composed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omni_rlvr.assembly.policies.load", None)  # would fail if called
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^model\.base=.*/file/x cannot be written"):
        runner.build(*composed, *runner.sft, *LORA, f"model.base={tmp_path}/file/x")
    for task in (runner.sft, runner.evaluate):
        with pytest.raises(UserError, match=r"^model\.base=x: .* add model/trainable=lora"):
            runner.build(*composed, *task, "model.base=x")
