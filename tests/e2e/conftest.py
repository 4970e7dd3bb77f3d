"""What end-to-end tests share: twelve real clips, a random tiny checkpoint, runs in-process.

A subprocess pays five seconds for importing torch; a run that is composed, built and run here pays
one. The command itself is run where a process matters: signals, kills, exit codes, sweeps.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from omni_rlvr import cli, stopping
from omni_rlvr.cli import conf_dir
from omni_rlvr.data.synthetic import generate, wording
from omni_rlvr.data.synthetic.emotions import LABELS
from omni_rlvr.models.composed import tiny
from omni_rlvr.tasks.build import Ready, build
from omni_rlvr.tasks.table import register

NUM_CLIPS = 12
HERE = Path(__file__).parent
CASES = HERE.parent / "fixtures" / "cases"
CLI = Path(sys.executable).with_name("omni-rlvr")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: ``clips/``, ``silent.mp4``, ``train.json`` (reasoning), ``test.json`` (5 rows)."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "clips").mkdir()
    write = generate.write_clip
    with pytest.MonkeyPatch.context() as patch:
        whole = replace(generate.SPLITS["cold_start"], one_modality=0.0)
        patch.setitem(generate.SPLITS, "cold_start", whole)
        patch.setattr(wording, "free_word", lambda cues, label: label)  # of the label list
        rows = [
            generate.make_clip(folder / "clips", "cold_start", 0, i, LABELS[i % len(LABELS)])
            for i in range(NUM_CLIPS)
        ]
        patch.setattr(
            generate,
            "write_clip",
            lambda path, frames, fps, sound, rate: write(path, frames, fps, None, rate),
        )
        generate.make_clip(folder, "cold_start", 0, 0, LABELS[0])
    (folder / "000000.mp4").rename(folder / "silent.mp4")
    (folder / "train.json").write_text(json.dumps(rows))
    (folder / "test.json").write_text(json.dumps(rows[:5]))
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> Path:
    """A checkpoint folder with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint")
    rows = json.loads((clips / "train.json").read_text())
    texts = [turn["value"] for row in rows for turn in row["conversations"]]
    torch.manual_seed(0)
    tiny.build_tiny(tiny.build_processor(tiny.train_tokenizer(texts))).save(folder)
    return folder


@pytest.fixture(scope="session")
def common(clips: Path, checkpoint: Path) -> list[str]:
    """Overrides that make any run small and read the shared clips."""
    return [
        "dataset=r1_omni",
        f"dataset.root={clips}",
        f"dataset.annotations.train={clips}/train.json",
        f"dataset.annotations.test={clips}/test.json",
        "dataset.num_workers=0",
        f"model.path={checkpoint}",
        "trainer.accelerator=cpu",
    ]


class Runner:
    """Runs overrides in-process; every run that is not resumed gets a new numbered folder."""

    sft = ("stage=sft", "stage.max_steps=2", "stage.batch_size=3")
    grpo = (
        "stage=grpo",
        "stage.max_steps=2",
        "stage.batch_size=2",
        "stage.num_generations=3",
        "stage.sampling.max_completion_length=8",
    )
    evaluate = ("task=evaluate", "task.max_completion_length=8", "task.num_resamples=50")

    def __init__(self, root: Path, common: Sequence[str]):
        self.root = root
        self.packages: list[Path] = []
        """Folders of packages that the command finds besides the installed ones."""
        self.started: list[subprocess.Popen[str]] = []
        self.overrides = [
            *common,
            f"paths.output_root={root}",
            f"paths.data_root={root.parent}/data",
        ]

    def compose(self, *overrides: str) -> DictConfig:
        """Composes a config as the command does."""
        register()
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            return compose("config", overrides=[*self.overrides, *overrides])

    def build(self, *overrides: str) -> tuple[Any, Path]:
        """Composes and builds; gives what the task's ``run`` takes."""
        ready, folder = self.ready(*overrides)
        return ready.inputs, folder

    def ready(self, *overrides: str) -> tuple[Ready, Path]:
        """Composes and builds."""
        cfg = self.compose(*overrides)
        folder = self.folder(cfg)
        return build(cfg, folder, self.root / cfg.name / "latest"), folder

    def folder(self, cfg: DictConfig) -> Path:
        """Where the run of a config writes."""
        home = self.root / cfg.name
        if cfg.resume is None:
            return home / f"{len(list(home.glob('[0-9]*'))):03d}"
        return (home / "latest" if cfg.resume == "latest" else Path(cfg.resume)).resolve()

    def __call__(self, *overrides: str) -> Path:
        """Composes, builds and runs; returns the run's folder."""
        ready, folder = self.ready(*overrides)
        ready.run()
        return folder

    def command(self, *overrides: str, **options) -> subprocess.CompletedProcess[str]:
        """Runs the command (flags first) in a process of its own and waits."""
        options = {"capture_output": True, "text": True, "timeout": 120, **options}
        command, env = [CLI, *overrides, *self.overrides], environment(*self.packages)
        return subprocess.run(command, env=env, **options)

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        """Starts the command in a process group of its own, as a terminal does."""
        process = subprocess.Popen(
            [CLI, *overrides, *self.overrides],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def end(self) -> None:
        """Ends what was started and still runs, because a test failed before its end."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def environment(*packages: Path) -> dict[str, str]:
    """Of a child: test modules can be imported (for a reward term), one thread, no network."""
    before = filter(None, [os.environ.get("PYTHONPATH")])
    path = os.pathsep.join([str(HERE), str(CASES), *map(str, packages), *before])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def runner(tmp_path: Path, common: list[str]) -> Iterator[Runner]:
    """Runs below this test's folder."""
    runner = Runner(tmp_path / "outputs", common)
    yield runner
    runner.end()


@pytest.fixture(scope="session")
def make_runner(
    tmp_path_factory: pytest.TempPathFactory, common: list[str]
) -> Callable[[], Runner]:
    """A factory of runners for fixtures of a wider scope."""
    return lambda: Runner(tmp_path_factory.mktemp("outputs"), common)


@pytest.fixture
def command(runner, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int | str]]:
    """Runs the command in this process; returns its exit code, or the text that it ends with."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)

    def run(*overrides: str) -> int | str:
        quiet = ("hydra/job_logging=disabled", "hydra/hydra_logging=disabled")
        monkeypatch.setattr(sys, "argv", ["omni-rlvr", *overrides, *quiet, *runner.overrides])
        try:
            cli.main()
        except SystemExit as end:
            return end.code
        finally:
            GlobalHydra.instance().clear()
        return 0

    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with stopping.listening():  # what the command listens to, it would hear in later tests
        yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in logging.root.manager.loggerDict:  # Hydra's configuration disables them
        logging.getLogger(name).disabled = False
