"""Every command that README, docs, ``--help`` and the experiments' headers show composes and passes
the checks; every make target they name exists. (That they run is shown by tests/e2e and the demo.)
"""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from sweep_packages import needs_plugins, with_plugins

from omni_rlvr.assembly.instantiate import check
from omni_rlvr.tasks.table import register

ROOT = Path(__file__).parents[1]
HELP = ROOT / "conf" / "hydra" / "help" / "omni_rlvr.yaml"
FLAGS = {"-m", "--help", "--cfg", "job", "--hydra-help"}

PLUGINS = ("launcher=joblib", "+sweep=search")
"""What commands hold that need plugins of Hydra's."""


def shown_commands() -> list[str]:
    """Command lines that start with omni-rlvr, comments cut off."""
    texts = [p.read_text() for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    texts += [yaml.safe_load(HELP.read_text())["footer"]]
    texts += [p.read_text().replace("# Command:", "") for p in (ROOT / "conf").rglob("*.yaml")]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    found = {re.split(r"\s{2,}[#(]", line)[0] for line in lines if line.startswith("omni-rlvr ")}
    assert len(found) > 15
    return sorted(found)


def swept(words: list[str]) -> Iterator[list[str]]:
    """The single runs of a command: every combination of comma-separated values under -m."""
    overrides = [word for word in words[1:] if word not in FLAGS]
    if "-m" not in words:
        yield overrides
        return
    choices = [
        [f"{key}={value}" for value in values.split(",")]
        for key, _, values in (word.partition("=") for word in overrides)
    ]
    yield from (list(run) for run in itertools.product(*choices))


def needs_a_plugin(command: str) -> bool:
    """Whether a command is of the extra ``sweep``."""
    return any(text in command for text in PLUGINS)


@needs_plugins
@pytest.mark.parametrize("command", [c for c in shown_commands() if needs_a_plugin(c)])
def test_shown_command_with_a_plugin_composes(command: str, tmp_path: Path) -> None:
    name, *words = [word for word in shlex.split(command) if word not in FLAGS]
    done = subprocess.run(
        [Path(sys.executable).with_name(name), *words, "--cfg", "job"],
        env=with_plugins(), capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in shown_commands() if not needs_a_plugin(c)])
def test_shown_command_composes(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stages = ("cold_start", "rlvr")
    for name in (
        f"{place}{stage}" for place in ("", "r1_omni/", "r1_omni/as_published/") for stage in stages
    ):
        (tmp_path / "outputs" / name / "latest" / "checkpoint").mkdir(parents=True)
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for overrides in swept(shlex.split(command)):
            config, _ = check(compose("config", overrides=overrides))
            assert config["name"]


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"^ {4}make (\w+)", text, flags=re.MULTILINE))
    assert {"demo", "test", "check"} <= named
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()
