"""A folder of your own options beside the package's: the files of the docs, as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from omni_rlvr.assembly.instantiate import check, make
from omni_rlvr.data.readers.own import CsvReader
from omni_rlvr.tasks.table import register

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
SHOWN = re.compile(
    r"`((?:mine/)?[\w/]+\.(?:yaml|py))`[^`]*?:\n\n```(?:yaml|python)\n(.*?)```", re.DOTALL
)
"""A file that a page names, a colon, and then what is in it."""
OWN = "--config-dir mine "


def commands() -> list[str]:
    texts = [re.sub(r" \\\n\s*", " ", page.read_text()) for page in PAGES]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    shown = [line for line in lines if line.startswith("omni-rlvr ")]
    return sorted({line for line in shown if OWN in line or "=my_" in line})


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with every file that a page shows; pages that show one twice agree."""
    files: dict[str, str] = {}
    for page in PAGES:
        for name, text in SHOWN.findall(page.read_text()):
            clash = name in files and name.startswith("mine") and "labels.csv" not in text
            assert not clash or files[name] == text, (page, name)
            files[name] = text
    assert {"mine/dataset/voices.yaml", "my_rewards.py", "my_reader.py"} <= {*files}
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for stage in ("cold_start", "rlvr"):
        (tmp_path / "outputs" / stage / "latest" / "checkpoint").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("command", [line for line in commands() if "--help" not in line])
def test_shown_command_with_own_options_composes(command: str, shown: Path) -> None:
    overrides = shlex.split(command.replace(OWN, ""))[1:]
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config, _ = check(
            compose("config", [*overrides, f"hydra.searchpath=[file://{shown}/mine]"])
        )
    assert config["name"]


def test_own_options_stand_beside_the_packages(shown: Path) -> None:
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose(
            "config",
            ["+experiment=study", "reward=brief", f"hydra.searchpath=[file://{shown}/mine]"],
        )
    assert (cfg.name, cfg.dataset.name, cfg.stage.max_steps) == ("study", "voices", 50)
    assert isinstance(make(cfg.dataset.splits.train), CsvReader)
    mixture = make(cfg.reward)
    assert mixture.weights["brevity"] == 0.5
    assert mixture.terms["brevity"].name == "brevity"


def test_the_reader_that_is_shown_reads(shown: Path) -> None:
    import my_reader

    (shown / "clips").mkdir()
    for name in ("a_happy.mp4", "b_sad.mp4"):
        (shown / "clips" / name).touch()
    examples = my_reader.MyReader("clips").read()
    assert [(e.id, e.answer) for e in examples] == [("a_happy.mp4", "happy"), ("b_sad.mp4", "sad")]


@pytest.mark.slow
def test_the_command_takes_a_folder_of_options_and_names_the_nearest(shown: Path) -> None:
    command = [Path(sys.executable).with_name("omni-rlvr"), "--config-dir", "mine"]
    printed = subprocess.run(
        [*command, "+experiment=study", "--cfg", "job"], capture_output=True, text=True
    )
    assert "name: study" in printed.stdout, printed.stderr
    wrong = subprocess.run([*command, "dataset=voises"], capture_output=True, text=True)
    assert "error: dataset=voises: there is no such option; did you mean voices?" in wrong.stderr


@pytest.mark.slow
def test_tab_completes_options_and_keys(tmp_path: Path) -> None:
    name = Path(sys.executable).with_name("omni-rlvr")
    script = f"""
        PATH={name.parent}:$PATH
        eval "$(omni-rlvr -sc install=bash)"
        for COMP_LINE in "omni-rlvr stage=d" "omni-rlvr stage=grpo stage.num_g"; do
            COMP_POINT=${{#COMP_LINE}}
            COMP_WORDS=($COMP_LINE)
            COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            hydra_bash_completion
            echo "${{COMPREPLY[@]}}"
        done
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["stage=dapo stage=dr_grpo", "stage.num_generations="], (
        done.stderr
    )
