"""Every command that README, docs, ``--help`` and the experiments' headers show composes and passes
the checks; every make target and every extra that they name exists. ``make docs-test`` runs them.
"""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from commands import commands_in
from hydra import compose, initialize_config_dir
from sweep_packages import needs_plugins, with_plugins

from omni_rlvr.assembly.instantiate import check
from omni_rlvr.tasks.table import register

ROOT = Path(__file__).parents[2]
HELP = ROOT / "conf" / "hydra" / "help" / "omni_rlvr.yaml"
FLAGS = {"-m", "--help", "--cfg", "job", "--info", "defaults-tree", "--hydra-help"}

PLUGINS = ("launcher=joblib", "+sweep=search")
"""What commands hold that need plugins of Hydra's."""
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
OTHERS = {"python3", "tensorboard"}
"""Programs whose commands need nothing and are not of this project."""


def shown_commands() -> list[str]:
    """The command lines of pages, of ``--help`` and of the headers of options."""
    texts = [yaml.safe_load(HELP.read_text())["footer"]]
    texts += [p.read_text().replace("# Command:", "") for p in (ROOT / "conf").rglob("*.yaml")]
    texts = [re.sub(r" \\\n\s*", " ", text) for text in texts]  # a command over several lines
    lines = [line.strip() for text in texts for line in text.splitlines()]
    lines = [line for line in lines if "--config-dir" not in line]  # see test_own_configs
    found = {re.split(r"\s{2,}[#(]", line)[0] for line in lines if line.startswith("omni-rlvr ")}
    found |= {c.text for page in PAGES for c in commands_in(page.read_text())}
    found = {c for c in found if c.startswith("omni-rlvr ")}
    assert len(found) > 15
    # those with files of the reader's own: see test_own_configs
    return sorted(c for c in found if "--config-dir" not in c and "=my_" not in c)


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


@pytest.mark.slow
@needs_plugins
@pytest.mark.parametrize("command", [c for c in shown_commands() if needs_a_plugin(c)])
def test_shown_command_with_a_plugin_composes(command: str, tmp_path: Path) -> None:
    name, *words = [word for word in shlex.split(command) if word not in FLAGS]
    done = subprocess.run(
        [Path(sys.executable).with_name(name), *words, "--cfg", "job"],
        env=with_plugins(), capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in shown_commands() if not needs_a_plugin(c)])
def test_shown_command_composes(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stages = ("cold_start", "rlvr")
    for name in (
        f"{place}{stage}"
        for place in ("", "r1_omni/", "r1_omni/as_published/", "qwen2_5_omni/")
        for stage in stages
    ):
        (tmp_path / "outputs" / name / "latest" / "checkpoint").mkdir(parents=True)
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for overrides in swept(shlex.split(command)):
            config, _ = check(compose("config", overrides=overrides))
            assert config["name"]


def test_other_commands_name_what_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    seen = set()
    for page in (*PAGES, ROOT / "CONTRIBUTING.md"):
        for command in commands_in(page.read_text()):
            program, *words = command.text.split()
            seen.add(program)
            match program:
                case "make":
                    assert re.search(rf"^{words[0]}:", makefile, flags=re.MULTILINE), command
                case "pip":
                    named = re.findall(r"\[([\w,]+)\]", command.text)
                    assert {extra for some in named for extra in some.split(",")} <= {*extras}
                case "bash":
                    assert (ROOT / words[0]).exists(), command
                case "omni-rlvr":
                    pass  # see the other tests
                case _:
                    assert command.needs or program in OTHERS, f"{page}: {command}"
    assert {"make", "pip", "bash", "omni-rlvr"} <= seen


def test_commands_of_a_page_are_found_with_what_they_need() -> None:
    page = """Text
omni-rlvr in prose

    omni-rlvr +experiment=rlvr   # a comment
    omni-rlvr task=check dataset=dfew \\
      dataset.root=DIR

<!-- needs: a camera -->

```bash
$ omni-rlvr task=serve
ls
```

```text
omni-rlvr: an output
```
"""
    found = [(c.line, c.block, c.text, c.needs) for c in commands_in(page)]
    assert found == [
        (3, 3, "omni-rlvr +experiment=rlvr", ()),
        (4, 3, "omni-rlvr task=check dataset=dfew dataset.root=DIR", ("the data set dfew",)),
        (10, 9, "omni-rlvr task=serve", ("a camera",)),
    ]


def test_ci_runs_the_readmes_test_command() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert any(line.startswith("if ! ") and " make test 2>&1 | tee " in line for line in lines)
