"""What starts the jobs of a sweep: options are those of Hydra's plugin, odd ones are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from every_case import every_case
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from sweep_packages import needs_plugins, with_plugins
from test_conf import CONF

from omni_rlvr.tasks.sweep_summary import check_launcher
from omni_rlvr.tasks.table import register
from omni_rlvr.types import UserError

LAUNCHERS = sorted(path.stem for path in (CONF / "hydra" / "launcher").glob("*.yaml"))
PLUGINS_OWN = """
import json, sys
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
Plugins.instance()
node = ConfigStore.instance().load(f"hydra/launcher/{sys.argv[1]}.yaml").node
print(json.dumps(OmegaConf.to_container(node)))
"""


def launcher(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[*overrides], return_hydra_config=True)
    return cfg.hydra.launcher


def test_the_launchers_are_those_promised() -> None:
    assert LAUNCHERS == ["joblib", "ray", "submitit_local", "submitit_slurm"]


@every_case("name", LAUNCHERS)
def test_a_launcher_says_what_it_answers_and_needs(name: str) -> None:
    text = (CONF / "hydra" / "launcher" / f"{name}.yaml").read_text()
    for word in ("Question:", "Command:", "Needs:", "Options:"):
        assert f"# {word}" in text


@needs_plugins
@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_has_every_option_of_its_plugin(name: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", PLUGINS_OWN, name],
        env=with_plugins(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    own = yaml.safe_load(shown.stdout)
    ours = yaml.safe_load((CONF / "hydra" / "launcher" / f"{name}.yaml").read_text())
    assert set(ours) == set(own)
    assert ours["_target_"] == own["_target_"]


@pytest.mark.parametrize("key", ["nodes", "tasks_per_node"])
def test_jobs_of_several_tasks_are_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omni_rlvr.tasks.sweep_summary._is_installed", lambda module: True)
    asked = launcher("hydra/launcher=submitit_slurm", f"hydra.launcher.{key}=2")
    with pytest.raises(UserError, match=rf"^hydra\.launcher\.{key}=2: .*trainer\.devices"):
        check_launcher(asked)


def test_the_sweep_without_jobs_needs_no_plugin() -> None:
    assert check_launcher(launcher()) is None
