"""A sweep of training runs is evaluated by default; -m and --cfg together are one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from omni_rlvr.assembly.composing.arguments import check_flags
from omni_rlvr.cli import conf_dir
from omni_rlvr.record import write_json
from omni_rlvr.tasks.sweep_summary import evaluate_by_default
from omni_rlvr.tasks.table import register
from omni_rlvr.types import UserError


def splits_after(run_dir: Path, *overrides: str) -> list[str]:
    """What a run of a sweep is evaluated on."""
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        cfg: DictConfig = compose("config", overrides=list(overrides))
    evaluate_by_default(cfg, overrides, run_dir)
    return list(cfg.task.evaluate_after.splits)


@pytest.mark.slow
def test_a_training_run_is_evaluated_on_the_test_split(tmp_path: Path) -> None:
    assert splits_after(tmp_path, "stage=grpo", "modality=video") == ["test"]
    assert splits_after(tmp_path, "+experiment=ablation") == ["test", "ood"]
    assert splits_after(tmp_path, "task.evaluate_after.splits=[ood]") == ["ood"]
    assert splits_after(tmp_path, "task.evaluate_after.splits=[]") == []
    assert splits_after(tmp_path, "task.evaluate_after.batch_size=3") == ["test"]
    unnamed = ("dataset=r1_omni", "dataset.root=x", "dataset.annotations.train=y")
    assert splits_after(tmp_path, *unnamed) == []  # no test split is given
    assert splits_after(tmp_path, *unnamed, "dataset.annotations.test=z") == ["test"]


@pytest.mark.parametrize(
    ("status", "expected"), [("finished", []), ("interrupted", []), ("failed", ["test"])]
)
def test_a_run_that_began_without_an_evaluation_goes_on_so(
    tmp_path: Path, status: str, expected: list[str]
) -> None:
    config = {"task": {"name": "train", "evaluate_after": {"splits": []}}}
    write_json(tmp_path / "run.json", {"status": status, "config": config})
    assert splits_after(tmp_path, "stage=grpo") == expected


def test_two_flags_are_one_line_with_a_command_that_works(monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/omni-rlvr"])
    flags = ["-m", "+experiment=rlvr", "modality=video,audio", "seed=range(3,5)", "--cfg", "job"]
    with pytest.raises(UserError) as error:
        check_flags(flags)
    assert str(error.value) == (
        "--multirun and --cfg: they ask for different things; --cfg prints one config; that of "
        "the sweep's first run: omni-rlvr +experiment=rlvr modality=video seed=3 --cfg job"
    )
    with pytest.raises(UserError, match=r"^--run and --cfg: they ask for different things; give"):
        check_flags(["--run", "-c", "job"])
    for good in (["--multirun", "seed=1,2"], ["--cfg", "job"], ["--cfg=job"], ["seed=1"]):
        check_flags(good)
