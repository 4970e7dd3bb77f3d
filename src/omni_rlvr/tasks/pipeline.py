"""The task ``pipeline``: train several stages, evaluate every model, and make one table.

All steps are composed and checked before the first of them begins.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from omni_rlvr.assembly.announce import announce_step
from omni_rlvr.assembly.composed import Composed, Place
from omni_rlvr.assembly.instantiate import check_step, compose_step
from omni_rlvr.config.tasks import PipelineTask
from omni_rlvr.pointers import CHECKPOINT
from omni_rlvr.record import read_jsonl
from omni_rlvr.tasks import build as building
from omni_rlvr.tasks.build import Ready
from omni_rlvr.tasks.lifecycle import move_latest, recorded
from omni_rlvr.types import Example, UserError, require

_STEP = re.compile(r"(?<!\$)\{([\w-]+)\}")
"""``{step}`` in an override; other braces belong to Hydra's grammar."""
ONE_DEVICE = "trainer.devices=1"
"""Added to the evaluations: they run in this process, one model after another."""


@dataclass(frozen=True)
class PipelineInputs:
    """The inputs of ``run``, which builds the steps one after another."""

    place: Place
    labels: Sequence[str]
    task: PipelineTask


def build(composed: Composed) -> PipelineInputs:
    """Compose and check every step.

    Raises:
        UserError: A step cannot be composed, or refers to a step that does not come before it.
    """
    task: PipelineTask = composed.task
    known: list[str] = []
    for group in ("stages", "evaluate", "modality"):
        for name, overrides in vars(task)[group].items():
            _check_step(task, overrides, composed.place.run_dir, f"task.{group}.{name}", known)
            known += [name] if group == "stages" else []
    return PipelineInputs(composed.place, composed.dataset.labels, task)


def _filled(task: PipelineTask, overrides: Sequence[str], run_dir: Path) -> list[str]:
    """List all overrides of a step, where the checkpoint of a stage replaces its ``{name}``."""
    filled = [_STEP.sub(lambda m: str(run_dir / m[1] / CHECKPOINT), text) for text in overrides]
    return [*task.shared, *filled]


def _check_step(
    task: PipelineTask, overrides: Sequence[str], run_dir: Path, key: str, known: Sequence[str]
) -> None:
    for text in overrides:
        for name in _STEP.findall(text):
            if name not in known:
                before = ", ".join(known) or "none"
                raise UserError(f"{key}: {text}: there is no step {name!r} before it ({before} is)")
    config = check_step(_filled(task, overrides, run_dir), key)
    wanted = "train" if key.startswith("task.stages.") else "evaluate"
    require(config["task"]["name"] == wanted, f"{key}: task", config["task"]["name"], wanted)


def run(inputs: PipelineInputs) -> None:
    """Train the stages in order, evaluate every model, and write one table with figures."""
    from omni_rlvr.tasks.report.summary import oracle_scores, summarise, write_summary
    from omni_rlvr.tasks.report.text_tables import summary_table

    task, run_dir = inputs.task, inputs.place.run_dir
    folders = {name: run_dir / name for name in task.stages}
    seconds: dict[str, float] = {}
    said: dict[str, str] = {}
    with recorded(inputs.place, device="cpu"):
        for name, overrides in task.stages.items():
            with timed(seconds, name):
                _step(inputs, overrides, name, said).run()
        models: dict[str, dict] = {}
        examples: dict[str, Sequence[Example]] = {}
        for name, overrides in task.evaluate.items():
            with timed(seconds, f"evaluate {name}"):
                over = [*overrides, f"task.splits=[{','.join(task.splits)}]", ONE_DEVICE]
                evaluation = _step(inputs, over, f"evaluate/{name}", said)
                models[name] = evaluation.run()
                examples = evaluation.inputs.clips.examples
        modality: dict[str, dict] = {}
        for name, overrides in task.modality.items():
            with timed(seconds, f"evaluate modality {name}"):
                over = [*overrides, f"task.splits=[{task.splits[0]}]", ONE_DEVICE]
                evaluation = _step(inputs, over, f"evaluate/modality_{name}", said)
                modality[name] = evaluation.run()[task.splits[0]]
        answers = {
            name: {
                split: read_jsonl(run_dir / "evaluate" / name / split / "predictions.jsonl")
                for split in splits
            }
            for name, splits in models.items()
        }
        summary = summarise(
            models, modality, oracle_scores(examples), seconds, answers=answers, gain=task.gain
        )
        files = write_summary(run_dir, summary, models, folders, inputs.labels)
    move_latest(inputs.place)
    Console().print(summary_table(summary))
    print("written:", *(str(file) for file in files), sep="\n  ")


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Print the name of a step, and record how many seconds it takes."""
    print(f"== {name.replace('_', ' ')}", flush=True)
    started = time.perf_counter()
    yield
    seconds[name.replace(" ", "_")] = round(time.perf_counter() - started, 1)


def _step(inputs: PipelineInputs, overrides: list[str], name: str, said: dict[str, str]) -> Ready:
    """Say what a step will do and build it; its folder is ``name`` below the pipeline's."""
    run_dir = inputs.place.run_dir
    cfg = compose_step(_filled(inputs.task, overrides, run_dir))
    announce_step(cfg, run_dir / name, said)
    return building.build(cfg, run_dir / name, None)
