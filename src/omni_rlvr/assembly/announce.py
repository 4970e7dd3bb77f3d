"""Print what a command will do, from the composed config alone and so before slow imports."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from omni_rlvr.assembly.composing.latest import how_it_ended
from omni_rlvr.assembly.instantiate import check_values
from omni_rlvr.config.stage import GrpoConfig, LoopConfig
from omni_rlvr.config.tasks import PipelineTask, PredictTask, TrainTask
from omni_rlvr.pointers import run_of
from omni_rlvr.ranks import rendezvous
from omni_rlvr.record import find_record
from omni_rlvr.stages.table import name_of

ANNOUNCED = ("train", "evaluate", "attribute", "cache", "predict", "pipeline")
"""Tasks that take long enough to be announced."""
ANSWERS = "predict"
"""The task whose output is for other programs too: its announcement goes to stderr."""
STARTS = ("start", "model")
"""How the checkpoint is called that training starts from, and that other tasks ask."""
WIDTH = 80
"""Columns of a terminal."""


def announce(cfg: DictConfig, run_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check a config, and print on the first rank what its command will do.

    Returns:
        The resolved config and the typed groups, see ``check_values``.
    """
    config, typed = check_values(cfg)
    if rendezvous.is_first() and config["task"]["name"] in ANNOUNCED:
        stream = sys.stderr if config["task"]["name"] == ANSWERS else sys.stdout
        print(*announcement(config, typed, run_dir), sep="\n", file=stream, flush=True)
    return config, typed


def announcement(
    config: Mapping[str, Any], typed: Mapping[str, Any], run_dir: Path
) -> Iterator[str]:
    """Describe a task by its config, line by line."""
    task = typed["task"]
    what = [f"task={config['task']['name']}"]
    if isinstance(task, TrainTask):
        what.append(f"stage={name_of(typed['stage'])}")
    yield f"{config['name']}: {' '.join(what)}"
    for name, text in _described(config, typed, run_dir):
        yield from _lines(name, text)
    yield from _lines("output", short(run_of(run_dir) if config["resume"] else run_dir))


def announce_step(cfg: DictConfig, run_dir: Path, said: dict[str, str]) -> None:
    """Say what a step of a pipeline will do, but for what is as in the steps before it.

    Args:
        cfg: The composed config of the step.
        run_dir: The folder of the step.
        said: What was said last of each subject; changed.
    """
    for name, text in _described(*check_values(cfg), run_dir):
        if name in STARTS or said.get(name) != text:
            print(*_lines(name, text), sep="\n", flush=True)
        said[name] = text


def _described(
    config: Mapping[str, Any], typed: Mapping[str, Any], run_dir: Path
) -> Iterator[tuple[str, str]]:
    """Describe a task by its config: pairs of a subject and what is said of it."""
    task, trainer = typed["task"], config["trainer"]
    if isinstance(task, PipelineTask):
        yield "train", ", then ".join(task.stages)
        yield "evaluate", f"{', '.join(task.evaluate)} on {', '.join(task.splits)}"
        if task.modality:
            yield "compare", f"{', '.join(task.modality)} on {task.splits[0]}"
        return
    yield STARTS[0 if isinstance(task, TrainTask) else 1], _start(config, task, run_dir)
    if config["video"] or config["audio"]:
        yield "data", " with the sound of ".join(filter(None, [config["video"], config["audio"]]))
    elif not isinstance(task, PredictTask):  # task=predict without a clip is refused later
        yield "data", _data(config, task)
        yield "modality", config["modality"]["name"]
    if isinstance(task, TrainTask):
        yield "steps", _steps(config, typed["stage"])
    if isinstance(task, TrainTask) and typed["stage"].samples:
        weights = config["reward"].get("weights") or {}
        yield "rewards", ", ".join(f"{name} x {w:g}" for name, w in weights.items())
    nodes = trainer.get("num_nodes", 1)
    on = f"{trainer['accelerator']}, devices={trainer['devices']}"
    yield "device", f"{on} on each of {nodes} machines" if nodes > 1 else on


def _lines(name: str, text: str) -> list[str]:
    """Write what is said of a subject, in lines of a terminal where it has blanks to break at."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"  {name:<9}",
        subsequent_indent=" " * 11,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _start(config: Mapping[str, Any], task: object, run_dir: Path) -> str:
    """Name the checkpoint that a model is loaded from."""
    model, resume = config["model"], config["resume"]
    if resume is not None:
        run = run_of(run_dir)
        ended = f", which {how_it_ended(run)}" if find_record(run) is not None else ""
        return f"resume={resume}{ended}"
    if isinstance(task, TrainTask) and task.start_from.overrides and task.start_from.num_examples:
        return f"the run of {' '.join(task.start_from.overrides)}"
    if model["path"] is None:
        return "joined from parts, projectors at random"
    base = f", adapters on {short(Path(model['base']))}" if model.get("base") else ""
    return f"{short(Path(model['path']))}{base}"


def _data(config: Mapping[str, Any], task: object) -> str:
    """Name the splits that a task reads."""
    dataset = config["dataset"]
    splits = [dataset["train_split"]] if isinstance(task, TrainTask) else config["task"]["splits"]
    where = f"dataset={dataset['name']} in {short(Path(dataset['root']))}"
    return f"{', '.join(splits or ['all splits'])} of {where}"


def _steps(config: Mapping[str, Any], stage: LoopConfig) -> str:
    """Say how long training is, in steps if the number of examples is in the config."""
    dataset = config["dataset"]
    known = dataset["splits"].get(dataset["train_split"], {}).get("num_clips")
    each = f"{stage.batch_size} prompts"
    if isinstance(stage, GrpoConfig):
        each += f" with {stage.num_generations} completions each"
    if stage.max_steps > 0:
        return f"{stage.max_steps} of {each}"
    epochs = f"{stage.num_train_epochs:g} epochs"
    if known is None:
        return f"{epochs}, {each} per step"
    limit = dataset["max_train_examples"]
    num_examples = min(known, limit) if limit > 0 else known
    return f"{stage.num_steps(num_examples)} of {each}: {epochs} of {num_examples:,} examples"


def short(path: Path) -> str:
    """Write a path as it is typed in the working folder, if it lies there."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
