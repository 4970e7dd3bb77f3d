"""The Python API: it composes, runs and fails as the command does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import omni_rlvr
from omni_rlvr import api
from omni_rlvr.record import read_json
from omni_rlvr.types import UserError

SMALL = (
    "stage=sft",
    "stage.max_steps=2",
    "stage.batch_size=2",
    "dataset.num_workers=0",
    "dataset.train_split=test",
    "dataset.splits.test.num_clips=4",
    "trainer.accelerator=cpu",
    "logger=[]",
)


def places(tmp_path: Path) -> list[str]:
    return [f"paths.output_root={tmp_path}/outputs", f"paths.data_root={tmp_path}/data"]


def test_the_surface_is_what_is_documented() -> None:
    assert all(vars(api)[name] is getattr(omni_rlvr, name) for name in omni_rlvr.__all__)
    with pytest.raises(AttributeError, match="no attribute 'compos'"):
        _ = omni_rlvr.compos


def test_a_config_is_composed_twice_in_one_process() -> None:
    first, second = (omni_rlvr.compose([f"stage.batch_size={size}"]) for size in (2, 4))
    assert (first.stage.batch_size, second.stage.batch_size) == (2, 4)
    assert "hydra" not in first


@pytest.mark.parametrize(
    "overrides",
    [
        ["stage.bta=0"],
        ["stage=grp"],
        ["stage.batch_size=two"],
        ["seed=-1"],
        ["+stage.bta=0"],
        ["name=a b", "stage.max_steps=1,2"],
        ["task=predict"],
    ],
)
def test_an_error_is_that_of_the_command(runner, command, overrides: list[str]) -> None:
    with pytest.raises(UserError) as raised:
        omni_rlvr.run(omni_rlvr.compose([*overrides, *runner.overrides]))
    assert command(*overrides) == f"error: {' '.join(str(raised.value).split())}"
    assert not list(runner.root.rglob("*")), "neither leaves a folder"


def test_from_a_config_to_a_table(tmp_path: Path) -> None:
    trained = omni_rlvr.run(omni_rlvr.compose([*SMALL, *places(tmp_path)]))
    assert trained.table["step"].tolist() == [1, 2]
    assert trained.metrics["loss"] == trained.table["loss"].iloc[-1]
    assert read_json(trained.folder / "run.json")["status"] == "finished"
    common = [*SMALL[3:4], *SMALL[5:], *places(tmp_path), "task.max_completion_length=8"]
    scored = omni_rlvr.evaluate(trained.folder / "checkpoint", ["task.splits=[test]", *common])
    assert scored.metrics["test"]["num_clips"] == 4
    assert scored.table.loc[0, "war"] == scored.metrics["test"]["war"]
    policy = omni_rlvr.load_policy(trained.folder / "checkpoint", ["trainer.accelerator=cpu"])
    clip = next((tmp_path / "data").rglob("*.mp4"))
    own = [*places(tmp_path), "trainer.accelerator=cpu", "task.max_completion_length=8"]
    own += ["feature_cache.enabled=false"]  # which stores features in half precision
    answer = omni_rlvr.predict(policy, clip, overrides=own)
    asked = omni_rlvr.run(
        omni_rlvr.compose(
            ["task=predict", f"+video={clip}", f"model.path={trained.folder}/checkpoint", *own]
        )
    )
    assert asked.table.loc[0, "completion"] == answer.completion
    assert asked.table.loc[0, "probabilities"] == answer.probabilities
    with pytest.raises(UserError, match="no such file"):
        omni_rlvr.predict(policy, tmp_path / "none.mp4", overrides=own)
    with pytest.raises(UserError, match="holds 4 clips"):
        omni_rlvr.predict(policy, clip.parent, overrides=own)


def test_configs_are_found_as_a_package() -> None:
    """From the checkout; ``tests/e2e/test_wheel.py`` does the same from the wheel."""
    code = (
        "from hydra import compose, initialize_config_module as at\n"
        "with at('omni_rlvr.conf', version_base='1.3'):\n"
        "    print(compose('config', overrides=['stage=grpo']).stage.num_generations)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().isdecimal()


def test_the_import_is_lazy() -> None:
    code = "import omni_rlvr, sys; print({'torch', 'hydra', 'pandas'} & set(sys.modules))"
    env = {**os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert done.stdout.strip() == "set()"


def test_an_interrupted_run_leaves_a_checkpoint(tmp_path: Path) -> None:
    """As by the stop button of a notebook, which sends SIGINT to its kernel."""
    code = f"""
import os, signal, threading, time
from pathlib import Path
import omni_rlvr
from omni_rlvr.types import Interrupted

def interrupt():
    while not list(Path({str(tmp_path)!r}).glob("outputs/train/*/metrics.jsonl")):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
try:
    omni_rlvr.run(omni_rlvr.compose({[*SMALL, *places(tmp_path), "stage.max_steps=1000"]!r}))
except Interrupted as stop:
    print("interrupted:", stop)
print("goes on", omni_rlvr.compose(["seed=3"]).seed)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert "interrupted: " in done.stdout, done.stderr
    assert done.stdout.endswith("goes on 3\n")
    assert (tmp_path / "outputs/train/latest/checkpoint").is_dir()


def test_a_script_without_a_guard_is_told_of_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    own = [*SMALL, *places(tmp_path)]
    script.write_text(f"import omni_rlvr\nomni_rlvr.run(omni_rlvr.compose({own!r}))\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    told = f"{script}:2: omni_rlvr.run starts processes that import this script; put the call under"
    assert told in done.stderr
