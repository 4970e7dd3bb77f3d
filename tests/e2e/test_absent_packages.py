"""Each optional package absent: a task works without it, or says what to type."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

import case_absent
import pytest
from test_predict import PREDICT

from omni_rlvr.record import read_json, read_jsonl, version
from omni_rlvr.types import UserError

OPTIONAL = {
    "decord": "decord",
    "math_verify": "math-verify",
    "wandb": "wandb",
    "mlflow": "mlflow-skinny",
    "sqlalchemy": "SQLAlchemy",
    "alembic": "alembic",
    "trackio": "trackio",
    "gradio": "gradio",
    "bitsandbytes": "bitsandbytes",
}
"""Module -> distribution."""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is there, as in a plain install on a machine that decord has no wheel for."""
    (tmp_path / "absent").mkdir()
    case_absent.hide(monkeypatch, tmp_path / "absent", OPTIONAL)


def test_tasks_that_need_none_work(runner, clips: Path, bare: None) -> None:
    folder = runner(*runner.sft)
    record = read_json(folder / "run.json")
    assert record["status"] == "finished"
    assert record["versions"]["decord"] is None
    assert record["versions"]["av"] == metadata.version("av")
    runner(*runner.grpo)
    runner(*runner.evaluate)
    runner("task=check")
    folder = runner(*PREDICT, f"+video={clips}/clips/000000.mp4")
    (row,) = read_jsonl(folder / "predictions.jsonl")
    assert row["has_video"]
    assert row["error"] is None


@pytest.mark.parametrize(
    ("overrides", "extra"),
    [
        (("stage=sft", "logger=[csv,wandb]"), "wandb"),
        (("stage=sft", "logger=[csv,mlflow]"), "mlflow"),
        (("stage=sft", "logger=[csv,trackio]"), "trackio"),
        (("stage=grpo", "reward=math_verify"), "math"),
        (("task=serve",), "serve"),
        (("task=evaluate", "model.options.quantize=nf4"), "qlora"),
    ],
)
def test_a_task_that_needs_one_says_what_to_type(
    runner, bare: None, overrides: tuple[str, ...], extra: str
) -> None:
    with pytest.raises(UserError) as error:
        runner.build(*overrides)
    assert f"pip install 'omni-rlvr[{extra}]'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "extra"),
    [
        ("hydra/launcher=joblib", "sweep"),
        ("hydra/launcher=submitit_slurm", "sweep"),
        ("hydra/launcher=ray", "ray"),
        ("hydra/sweeper=optuna", "sweep"),
    ],
)
def test_the_command_says_how_to_get_a_plugin(runner, option: str, extra: str) -> None:
    if importlib.util.find_spec("hydra_plugins"):
        pytest.skip("the extra sweep is installed")
    done = runner.command("-m", option)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith(f"; pip install 'omni-rlvr[{extra}]'\n")
    assert done.stderr.count("\n") == 1


def test_a_fork_of_decord_counts_as_decord(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"eva-decord": "0.7.0"}

    def found(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", found)
    assert version("decord") == "0.7.0 (eva-decord)"
    assert version("omni-rlvr") is None
    versions["decord"] = "0.6.0"
    assert version("decord") == "0.6.0"
