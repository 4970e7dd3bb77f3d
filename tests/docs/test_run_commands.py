"""Runs every command and script that README and the pages show and that needs no more than this
machine.

The commands of a page run in their order, as a reader types them, in one working folder that holds
what pages speak of: a cold start and an RLVR model, clips with annotations, the files that pages
show. Sizes that a command leaves open are made small: few clips, steps and tokens.

    make docs-test
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from commands import commands_in
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from sweep_packages import with_plugins
from test_commands import PAGES, ROOT, swept
from test_own_configs import SHOWN

from omni_rlvr.tasks.table import register

pytestmark = [pytest.mark.docs, pytest.mark.timeout(900)]
CLI = Path(sys.executable).with_name("omni-rlvr")
SMALL = {
    "dataset.num_workers": 0,
    "stage.max_steps": 2,
    "stage.batch_size": 2,
    "stage.num_generations": 2,
    "stage.sampling.max_completion_length": 8,
    "task.evaluate_after.max_clips": 4,
    "task.evaluate_after.max_completion_length": 8,
    "task.evaluate_after.num_resamples": 20,
    "callbacks.probe.num_clips": 2,
    "callbacks.probe.max_completion_length": 8,
    "task.max_clips": 6,
    "task.max_completion_length": 8,
    "task.num_resamples": 20,
}
"""Values that make a run small, of which it is given those that it has."""
TOO_SMALL = {"reward=soft_overlong": "stage.sampling.max_completion_length"}
"""What a command holds that asks for more of a value."""
SPLITS = ("caption", "cold_start", "rlvr", "test", "ood")
NUM_CLIPS = 14
FOR_SYNTHETIC = {f"dataset.splits.{split}.num_clips": NUM_CLIPS for split in SPLITS}
PRINTS = {"--help", "--cfg", "--info", "--hydra-help"}
"""Flags of commands that do no work."""


def shown() -> list[pytest.param]:
    """Each command that can run here, named by its page and line."""
    return [
        pytest.param(page, command.line, command.text, id=f"{page.stem}:{command.line + 1}")
        for page in PAGES
        for command in commands_in(page.read_text())
        if command.text.startswith("omni-rlvr ") and not command.needs
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder."""
    folder = tmp_path_factory.mktemp("work")
    for overrides in ("+experiment=cold_start", "+experiment=rlvr", "+experiment=sft_labels"):
        run(f"omni-rlvr {overrides}", folder)
    (made,) = (folder / "data" / "synthetic").glob("*/rlvr*")
    rows = json.loads((made / "annotations.json").read_text())
    for place in ("DIR", "CLIPS", "clips"):
        shutil.copytree(made, folder / place)
    (folder / "DIR" / "a.json").write_text(json.dumps(rows))
    for turn in [row["conversations"][1] for row in rows]:  # a cold start learns from it too
        turn["value"] = f"<think>A face is seen.</think>\n<answer>{turn['value']}</answer>"
    (folder / "DIR" / "train.json").write_text(json.dumps(rows))
    seen = [row for row in rows if "video" in row]
    shutil.copy(made / seen[0]["video"], folder / "clip.mp4")
    for name, row in zip(("a_happy.mp4", "b_sad.mp4"), seen, strict=False):  # for my_reader.py
        shutil.copy(made / row["video"], folder / "clips" / name)
    labels = ("happy", "sad", "sad", "happy") * 2
    for split, row, label in zip(("train", "test") * 4, seen, labels, strict=False):
        for place in ("clips", "CLIPS"):
            below = folder / place / split / label
            below.mkdir(parents=True, exist_ok=True)
            shutil.copy(made / row["video"], below)
    for page in PAGES:
        for name, text in SHOWN.findall(page.read_text()):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    return folder


def write_lists(folder: Path, command: str) -> None:
    """Writes lists of the clips with the labels that a command speaks of, each in turn."""
    given = re.search(r"dataset\.labels=\[([\w,]+)\]", command)
    labels = given[1].split(",") if given else ["happy", "sad"]
    rows = json.loads((folder / "DIR" / "train.json").read_text())
    videos = [row["video"] for row in rows if "video" in row]
    for name in ("labels.csv", "train.csv"):
        with (folder / name).open("w", newline="") as file:
            listed = zip(videos, itertools.cycle(labels), strict=False)
            rows = [("video", "label"), *listed]
            if name == "train.csv":  # a cold start learns from it too
                told = itertools.chain(["reasoning"], itertools.repeat("A face is seen."))
                rows = [(*row, text) for row, text in zip(rows, told, strict=False)]
            csv.writer(file).writerows(rows)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command with small settings; those of ``--help`` and ``--cfg`` as they are."""
    words = shlex.split(command)
    if not PRINTS & {*words}:
        words += small(words, folder)
    for word in words:
        if word.startswith("task.to="):  # a folder that another page has made
            shutil.rmtree(folder / word.removeprefix("task.to="), ignore_errors=True)
    if "resume=latest" in words:
        stopped = [word for word in words if word != "resume=latest"]
        assert started(stopped, folder, stop=True).returncode == 130
    return started(words, folder)


def started(
    words: list[str], folder: Path, *, stop: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; with ``stop``, training until its first step is done.

    A page is served until it is stopped, so it is stopped once its address is printed.
    """
    env = {**with_plugins(), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline"}
    began, lines, runs = time.monotonic(), [], folder / "outputs" / "rlvr"
    before = {*runs.glob("*/metrics.jsonl")}
    with subprocess.Popen(
        [CLI, *words[1:]], cwd=folder, env=env, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        if stop:
            while process.poll() is None and not {*runs.glob("*/metrics.jsonl")} - before:
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
        for line in process.stdout:
            lines.append(line)
            if "http://127.0.0.1" in line:
                os.killpg(process.pid, signal.SIGINT)
    print(f"{time.monotonic() - began:.0f} s: {shlex.join(words)}")
    return subprocess.CompletedProcess(words, process.returncode, "".join(lines))


def small(words: list[str], folder: Path) -> list[str]:
    """The overrides that make a command small; what it sets itself stays."""
    named = {word.split("=")[0].lstrip("+") for word in words}
    named |= {key for word, key in TOO_SMALL.items() if word in words}
    # what a run is made of, without plugins: where it is started changes none of its sizes
    own = [w for w in words if w not in ("--config-dir", "mine") and not w.startswith("hydra")]
    own = ["+experiment=ablation" if word == "+sweep=search" else word for word in own]
    search = [f"hydra.searchpath=[file://{folder}/mine]"] if "--config-dir" in words else []
    register()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = compose("config", [*next(iter(swept(own))), *search])
    values: dict[str, object] = dict(SMALL)
    if "resume=latest" in words:
        values["stage.max_steps"] = 40  # time to stop it in
    if config.dataset.name == "synthetic":
        values |= FOR_SYNTHETIC
    chosen = [f"{key}={value}" for key, value in values.items() if holds(config, key)]
    if "-m" in words:
        chosen += ["task.start_from.num_examples=4"]
        for name in (w.split("=")[1] for w in words if w.startswith("+sweep=")):
            study = yaml.safe_load((ROOT / "conf" / "sweep" / f"{name}.yaml").read_text())
            if name == "search":
                chosen += [
                    "hydra.sweeper.n_trials=2",
                    f"dataset.splits.validation.num_clips={NUM_CLIPS}",
                ]
                continue
            lists = study["hydra"]["sweeper"]["params"]  # the first one stays whole
            chosen += [f"{key}={str(some).split(',')[0]}" for key, some in [*lists.items()][1:]]
    return [one for one in chosen if one.split("=")[0] not in named]


def holds(config: DictConfig, key: str) -> bool:
    """Whether a config has a key."""
    group, _, name = key.rpartition(".")
    node = OmegaConf.select(config, group)
    return isinstance(node, DictConfig) and name in node


def error_below(page: Path, line: int) -> str:
    """The error that a page shows below a command; empty for a command that succeeds."""
    below = "\n".join(page.read_text().splitlines()[line + 1 :])
    shown_error = re.match(r"(?:[^`\n]*\n){0,6}```text\n(error: [^;\n]+)", below)
    return shown_error[1] if shown_error else ""


@pytest.mark.parametrize(("page", "line", "command"), shown())
def test_command_runs(page: Path, line: int, command: str, folder: Path) -> None:
    write_lists(folder, command)
    done = run(command.replace("/test_500/", f"/test_{NUM_CLIPS}/"), folder)
    print(done.stdout[-3000:])
    if error := error_below(page, line):
        assert done.returncode == 1
        assert error.split(" has ")[0] in done.stdout
    else:
        assert done.returncode in ((0, 130) if "serve" in command else (0,))


SCRIPT = re.compile(r"```python\n((?:import|from) (?:omni_rlvr|hydra).*?)```", flags=re.DOTALL)
"""What a page shows to be run; other Python is a file, or an excerpt of the source."""


def scripts() -> list[pytest.param]:
    """Each script that a page shows, named by the page."""
    found = [(page, code) for page in PAGES for code in SCRIPT.findall(page.read_text())]
    assert len(found) >= 3
    return [pytest.param(code, id=page.stem) for page, code in found]


@pytest.mark.parametrize("code", scripts())
def test_script_runs(code: str, folder: Path) -> None:
    def with_small(shown: re.Match[str]) -> str:
        overrides = small(["omni-rlvr", *re.findall(r'"([^"]+)"', shown[1])], folder)
        return f"omni_rlvr.compose([{shown[1]}, *{overrides}])"

    code = re.sub(r"omni_rlvr\.compose\(\[(.*?)\]\)", with_small, code)
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
