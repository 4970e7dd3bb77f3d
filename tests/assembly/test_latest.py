"""``${latest:NAME}``: which run it names, which it refuses, and what a reader is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from omni_rlvr.assembly.composing.latest import (
    how_it_ended,
    latest_checkpoint,
    run_that_wrote,
    stopped_at_the_start,
)
from omni_rlvr.assembly.instantiate import check
from omni_rlvr.cli import conf_dir
from omni_rlvr.record import append_jsonl, write_json
from omni_rlvr.tasks.table import register
from omni_rlvr.types import UserError


def make_run(folder: Path, *, status: str = "finished", day: int = 1, task: dict | None = None):
    """A run with an empty checkpoint that logged nine steps."""
    (folder / "checkpoint").mkdir(parents=True)
    record = {"status": status, "started": f"2026-01-{day:02d}T12:00:00"}
    record |= {"command": ["omni-rlvr", "+experiment=cold_start", "resume=latest"]}
    write_json(folder / "run.json", record | {"config": {"task": task or {"name": "train"}}})
    append_jsonl(folder / "metrics.jsonl", [{"step": step} for step in range(1, 10)])
    return folder


def own_run(root: Path, experiment: str, **fields) -> Path:
    folder = make_run(root / experiment / "run", **fields)
    (root / experiment / "latest").symlink_to("run")
    return folder


def quickstart(root: Path, name: str, *, day: int, stages: tuple[str, ...] = ("rlvr",)) -> Path:
    """A pipeline whose stages all finished."""
    task = {"name": "pipeline", "stages": {"cold_start": [], "rlvr": []}}
    folder = make_run(root / "quickstart" / name, day=day, task=task)
    for stage in stages:
        make_run(folder / stage, day=day)
    return folder


def test_the_newest_of_own_runs_and_stages_is_taken(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path, "rlvr") is None
    quickstart(tmp_path, "old", day=1)
    new = quickstart(tmp_path, "new", day=3)
    (tmp_path / "quickstart" / "latest").symlink_to("new")
    assert latest_checkpoint(tmp_path, "rlvr") == new / "rlvr" / "checkpoint"
    assert latest_checkpoint(tmp_path, "cold_start") is None
    own_run(tmp_path, "rlvr", day=2)
    assert latest_checkpoint(tmp_path, "rlvr") == new / "rlvr" / "checkpoint"
    own = own_run(tmp_path / "other", "rlvr", day=4)
    quickstart(tmp_path / "other", "old", day=3)
    assert latest_checkpoint(tmp_path / "other", "rlvr") == own / "checkpoint"


def test_an_evaluation_in_a_pipeline_is_no_stage(tmp_path: Path) -> None:
    folder = quickstart(tmp_path, "run", day=1, stages=())
    make_run(folder / "evaluate")
    assert latest_checkpoint(tmp_path, "evaluate") is None


def test_an_unfinished_stage_is_passed_over(tmp_path: Path) -> None:
    old = quickstart(tmp_path, "old", day=1)
    make_run(quickstart(tmp_path, "new", day=2, stages=()) / "rlvr", status="interrupted", day=2)
    assert latest_checkpoint(tmp_path, "rlvr") == old / "rlvr" / "checkpoint"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("interrupted", "was interrupted after step 9"),
        ("failed", "failed after step 9"),
        ("running", "has not ended after step 9: it is still running, or was killed"),
    ],
)
def test_an_unfinished_run_is_refused_unless_it_is_named(
    tmp_path: Path, status: str, said: str
) -> None:
    run = own_run(tmp_path, "cold_start", status=status)
    register()
    root = f"paths.output_root={tmp_path}"
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        with pytest.raises(UserError) as error:
            check(compose("config", overrides=["+experiment=rlvr", root]))
        named = f"model.path={run}/checkpoint"
        config, _ = check(compose("config", overrides=["+experiment=rlvr", root, named]))
    assert str(error.value) == (
        f"model.path: {run} {said}, so it is not used automatically; 'omni-rlvr "
        f"+experiment=cold_start resume={run}' resumes it, or {named} uses it as it is"
    )
    assert config["model"]["path"] == f"{run}/checkpoint"


def test_the_run_of_a_checkpoint_and_how_it_ended(tmp_path: Path) -> None:
    run = own_run(tmp_path, "cold_start")
    (run / "checkpoint").rmdir()
    (run / "checkpoints" / "step_9").mkdir(parents=True)
    (run / "checkpoint").symlink_to("checkpoints/step_9")
    for path in ("latest/checkpoint", "run/checkpoint", "run/checkpoints/step_9"):
        found = run_that_wrote(tmp_path / "cold_start" / path)
        assert found is not None
        assert found.resolve() == run
        assert how_it_ended(found) == "finished after step 9"
    assert run_that_wrote(tmp_path / "elsewhere" / "checkpoint") is None
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "lo')  # a kill in mid-line
    assert how_it_ended(run) == "finished after step 9"
    (run / "run.json").write_text("")
    assert run_that_wrote(run / "checkpoint") is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.path=${latest:mine}", "model.path: there is no run of 'mine' under outputs"),
        ("model.path=${nowhere.x}", "model.path: it follows from nowhere.x, which is no key"),
        ("stage.max_steps=${dataset.root}", "stage.max_steps: it follows from ${dataset.root}: V"),
        ("stage.max_steps=${stage.max_steps}", "stage.max_steps: it refers to itself"),
        ("model.path=${nosuch:x}", "model.path: ${nosuch:...} is not a function of these configs"),
        ("seed=${oc.env:NO_SUCH}", "seed: \"Environment variable 'NO_SUCH' not found\""),
        ("task.split=???", "task.split must be given, e.g. task.split=NAME"),
    ],
)
def test_an_error_speaks_of_keys_and_not_of_how_they_are_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        cfg = compose("config", overrides=["task=preview", "task.split=test", override])
        with pytest.raises(UserError) as error:
            check(cfg)
    assert str(error.value).startswith(said)
    assert not any(word in str(error.value) for word in ("full_key", "object_type", "nterpolation"))


def test_a_run_that_was_stopped_before_its_first_checkpoint(tmp_path: Path) -> None:
    home = tmp_path / "rlvr"
    assert stopped_at_the_start(home) is None  # no run at all
    record = {"config": {}, "command": []}
    old, last = home / "2026-01-01", home / "2026-01-02"
    for folder, status in ((old, "finished"), (last, "interrupted")):
        folder.mkdir(parents=True)
        write_json(folder / "run.json", record | {"status": status})
    (old / "checkpoints/step_000004").mkdir(parents=True)
    (home / "latest").symlink_to(old.name)
    for status, found in (("interrupted", last), ("running", last), ("failed", None)):
        write_json(last / "run.json", record | {"status": status})
        assert stopped_at_the_start(home) == found
    write_json(last / "run.json", record | {"status": "running"})
    write_json(old / "run.json", record | {"status": "interrupted"})
    assert stopped_at_the_start(home) is None  # the older one goes on
    (home / "latest").unlink()
    assert stopped_at_the_start(home) == last
    (last / "checkpoints/step_000002").mkdir(parents=True)
    assert stopped_at_the_start(home) is None
