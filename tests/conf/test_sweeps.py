"""Every study of conf/sweep composes and is checked, and its header says what it asks."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from every_case import every_case
from hydra.core.override_parser.overrides_parser import OverridesParser
from sweep_packages import needs_plugins, with_plugins
from test_conf import CONF, _hydra, cold_start, composed

from omni_rlvr.assembly.composing.names import run_name
from omni_rlvr.assembly.instantiate import check
from omni_rlvr.record import identity
from omni_rlvr.tasks.start import resolved

__all__ = ["_hydra", "cold_start"]  # fixtures

STUDIES = sorted(path.stem for path in (CONF / "sweep").glob("*.yaml"))
GRIDS = [name for name in STUDIES if name != "search"]
NUM_RUNS = {
    "modality": 9,
    "reward_weights": 15,
    "objective": 21,
    "num_generations": 12,
    "beta": 15,
    "cold_start_size": 12,
}


def grid(name: str) -> list[list[str]]:
    """The overrides of every run, as Hydra's basic sweeper expands them."""
    params = yaml.safe_load((CONF / "sweep" / f"{name}.yaml").read_text())["hydra"]["sweeper"]
    texts = [f"{key}={value}" for key, value in params["params"].items()]
    parsed = OverridesParser.create().parse_overrides(texts)
    lists = [[f"{o.key_or_group}={v}" for v in o.sweep_string_iterator()] for o in parsed]
    return [list(run) for run in itertools.product(*lists)]


def test_the_studies_are_those_promised() -> None:
    assert set(GRIDS) == set(NUM_RUNS)


@every_case("name", STUDIES)
def test_a_study_says_what_it_asks(name: str) -> None:
    text = (CONF / "sweep" / f"{name}.yaml").read_text()
    assert text.startswith("# @package _global_\n")
    for word in ("Question:", "Command:", "Time:", "Expect:"):
        assert f"# {word}" in text
    assert f"omni-rlvr -m +sweep={name} " in text
    assert re.search(rf"^name: {name}$", text, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("name", GRIDS)
def test_every_run_of_a_study_is_another(name: str, tmp_path: Path) -> None:
    runs = grid(name)
    assert len(runs) == NUM_RUNS[name]
    one = [run for run in runs if run[-1] == "seed=0"]  # a third of the grid, and every value of it
    configs = [composed(f"+sweep={name}", *run, f"paths.output_root={tmp_path}") for run in one]
    checked = [check(cfg)[0] for cfg in configs]
    assert len({identity(config) for config in checked}) == len(one) == NUM_RUNS[name] / 3
    for config in checked:
        assert config["task"]["evaluate_after"]["splits"] == ["test", "ood"]
        assert config["model"]["path"].endswith("tiny_base")


@pytest.mark.slow
def test_seeds_share_a_cold_start_and_modalities_do_not(tmp_path: Path) -> None:
    def start(*overrides: str) -> str:
        root = f"paths.output_root={tmp_path}"
        return resolved(composed("+sweep=modality", *overrides, root))["model"]["path"]

    assert start("modality=audio", "seed=0") == start("modality=audio", "seed=2")
    assert start("modality=audio") != start("modality=video")
    assert start().startswith(f"{tmp_path}/cold_start/shared/")


@pytest.mark.slow
def test_a_cold_start_of_no_examples_is_the_base(tmp_path: Path) -> None:
    def config(size: int) -> dict:
        over = f"task.start_from.num_examples={size}"
        return resolved(composed("+sweep=cold_start_size", over, f"paths.output_root={tmp_path}"))

    assert config(0)["model"]["path"].endswith("tiny_base")
    assert config(58)["model"]["path"] != config(290)["model"]["path"]


def test_a_runs_name_is_short_and_says_what_it_is() -> None:
    cfg = composed("+sweep=beta", "stage.beta=0.1", "seed=2")
    overrides = ["stage.beta=0.1", "seed=2", "+sweep=beta", "model.path=a/b", "task.x={a:1}"]
    name = run_name(overrides, _root_=cfg)
    assert re.fullmatch(r"beta-0\.1_seed-2_[0-9a-f]{8}", name)
    other = run_name(overrides, _root_=composed("+sweep=beta", "stage.beta=0.1", "seed=1"))
    assert other[-8:] != name[-8:]
    assert len(run_name([f"stage.k{i}=1" for i in range(99)], _root_=cfg)) < 100


def test_where_a_run_writes_is_not_what_it_computes() -> None:
    config = check(composed("stage=grpo"))[0]
    moved = check(composed("stage=grpo", "paths.output_root=elsewhere", "logger=csv"))[0]
    assert identity(config) == identity(moved)
    whole = check(composed("stage=grpo", "reward.weights.format=1"))[0]  # 1.0 in the file
    assert identity(config) == identity(whole)
    assert identity(config) != identity(check(composed("stage=grpo", "stage.beta=0.1"))[0])


@pytest.mark.slow
@needs_plugins
def test_the_search_chooses_on_clips_that_are_not_the_tests() -> None:
    shown = subprocess.run(
        [Path(sys.executable).with_name("omni-rlvr"), "+sweep=search", "--cfg", "job"],
        env=with_plugins(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    config = yaml.safe_load(shown.stdout)
    (split,) = config["task"]["evaluate_after"]["splits"]
    readers = config["dataset"]["splits"]
    assert readers[split]["seed"] == 1
    assert readers["test"]["seed"] == 0
