"""Print at the end of a command where its results are, and three commands that make sense next.

They are derived from the present command, and composed before they are printed, so that they work
as printed.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from omni_rlvr.assembly.announce import short
from omni_rlvr.assembly.composing.arguments import override
from omni_rlvr.assembly.composing.help_page import conf_dir, options_in
from omni_rlvr.assembly.composing.suggestions import own_folders
from omni_rlvr.assembly.instantiate import check_values, compose_step
from omni_rlvr.config.dataset import DatasetConfig, lacks_file
from omni_rlvr.config.stage import LoopConfig
from omni_rlvr.config.tasks import AttributeTask, EvaluateTask, PipelineTask, TrainTask
from omni_rlvr.pointers import CHECKPOINT, run_of
from omni_rlvr.ranks import rendezvous
from omni_rlvr.record import read_jsonl, read_record
from omni_rlvr.text.chart import charts
from omni_rlvr.types import UserError

CLOSED = ("train", "evaluate", "attribute", "pipeline")
"""Tasks that end with this summary."""
NUM_COMMANDS = 3
CARRIED = (
    *("dataset", "model", "modality", "lexicon", "paths", "feature_cache"),
    *("trainer.accelerator", "trainer.devices"),  # not num_nodes: no command starts other machines
)
"""Groups and keys whose overrides the next commands need too."""
OWN = ("model.path", "dataset.train_split", "dataset.max_train_examples", "model.parts")
"""Keys of these groups that belong to the present run alone."""
TRAINABLE = ("model/trainable", "model.trainable")
"""Groups and keys that only commands that train need."""
COMPOSING_ERRORS = (HydraException, OmegaConfBaseException, UserError, ValueError)
"""What is raised for a command that does not work."""
USUAL = {"dataset": "synthetic", "model": "tiny"}
"""The options that experiments directly in conf/experiment choose."""
CURVES = {"reward": "reward", "accuracy": "rewards/accuracy/mean", "loss": "loss"}
"""Title of a chart -> its metric."""
WIDE, WIDEST = 100, 140
"""Least width of a terminal, in columns, in which charts are drawn, and their largest width."""
PLAIN = re.compile(r"(?=.*/)[\w./+@:%-]+", re.ASCII)
"""Paths that Hydra and a shell read as they are."""


def close(
    config: Mapping[str, Any], typed: Mapping[str, Any], run_dir: Path, inputs: object
) -> None:
    """Print where the results of a finished command are, and what makes sense next.

    Args:
        config: The config as resolved when the task began; ``${latest:NAME}`` may have moved since.
        typed: Its typed groups.
        run_dir: The folder of the run.
        inputs: What the task's ``build`` returned; one of its clips is taken as an example.
    """
    if not rendezvous.is_first() or config["task"]["name"] not in CLOSED:
        return
    run = run_of(run_dir) if config["resume"] else run_dir
    if isinstance(typed["task"], TrainTask):
        for line in _curves(run):
            print(line)
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in run.iterdir())
    width = Console().width
    print(f"output: {short(run)}")
    shown = [name for name in names if not name.startswith(".")]
    print("  " + _folded(shown, width - 2, "  ", "\n  "))
    commands = next_commands(config, typed, run, _example_clip(inputs), HydraConfig.get())
    _print_next(commands, width)


def close_sweep(
    home: Path, job: Sequence[str], *, best: Path | None, baseline: str, seeds: Sequence[int]
) -> None:
    """Say where the runs of a sweep lie, and what makes sense next.

    Hydra is done by then, and is initialised once more.

    Args:
        home: The folder of the sweep.
        job: The overrides of one of its runs.
        best: The folder of its best run; None if its runs have no scores.
        baseline: ``task.baseline`` for a report; empty for none.
        seeds: Those of its runs; none for a search, which has no more of them.
    """
    width = Console().width
    files = sorted(path.name for path in home.iterdir() if path.is_file())
    shown = [name for name in files if not name.startswith(".")]
    print(f"output: {short(home)}")
    print("  " + _folded([*shown, "a folder for each run"], width - 2, "  ", "\n  "))
    report = ["task=report", _written("runs", short(home))]
    commands = [[*report, f"task.baseline={baseline}"] if baseline else report]
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        after_best = [] if best is None else _after(best)
        more = _more_seeds(seeds, job) if seeds else []
    commands += [*after_best[:1], *more, *after_best[1:]]
    _print_next(commands[:NUM_COMMANDS], width)


def _after(run: Path) -> list[list[str]]:
    """List commands that make sense after a run of a sweep, by what Hydra left in its folder."""
    file = run / ".hydra" / "hydra.yaml"
    if not file.exists():
        return []
    hydra: Any = OmegaConf.load(file).hydra
    record = read_record(run)["config"]
    overrides = [*hydra.overrides.task]
    if record["task"]["name"] == "train":  # a sweep evaluates its runs unasked
        splits = record["task"]["evaluate_after"]["splits"]
        overrides.append(f"task.evaluate_after.splits=[{','.join(splits)}]")
    try:
        _, typed = check_values(_composed(overrides, hydra))
    except COMPOSING_ERRORS:
        return []
    commands = next_commands(record, typed, run, None, hydra)
    return [command for command in commands if "task=report" not in command]


def _more_seeds(seeds: Sequence[int], job: Sequence[str]) -> list[list[str]]:
    """Give the command of this sweep with as many seeds more; none if it is wrong.

    The runs that are there are skipped.
    """
    new = [max(seeds) + 1 + place for place in range(max(2, len(seeds)))]
    own = [text for text in sys.argv[1:] if _key(text) != "seed"]
    overrides = [*(text for text in job if _key(text) != "seed"), f"seed={new[0]}"]
    if folders := own_folders(own):
        overrides.append(f"hydra.searchpath=[{','.join(f'file://{path}' for path in folders)}]")
    try:
        check_values(compose_step(overrides))
    except COMPOSING_ERRORS:
        return []
    return [[*own, f"seed={','.join(map(str, [*seeds, *new]))}"]]


def _print_next(commands: Sequence[Sequence[str]], width: int) -> None:
    if commands:
        print("next:")
    for command in commands:
        print(_folded(["  omni-rlvr", *map(shlex.quote, command)], width - 2, " ", " \\\n      "))


def _folded(texts: Sequence[str], width: int, gap: str, line_end: str) -> str:
    """Join texts into lines of at most a width, which break only between texts."""
    whole, used = texts[0], len(texts[0])
    for text in texts[1:]:
        fits = used + len(gap) + len(text) <= width
        whole += f"{gap if fits else line_end}{text}"
        used = used + len(gap) + len(text) if fits else len(line_end.splitlines()[-1]) + len(text)
    return whole


def _curves(run: Path) -> list[str]:
    """Draw reward and accuracy, or the loss, if the terminal has room for charts."""
    console = Console()
    file = run / "metrics.jsonl"
    if not console.is_interactive or console.width < WIDE or console.encoding != "utf-8":
        return []
    rows = read_jsonl(file) if file.exists() else []
    curves = [
        (title, [row[key] for row in rows if row.get(key) is not None])
        for title, key in CURVES.items()
    ]
    drawn = [(title, values) for title, values in curves if values]
    if len(drawn) > 1:  # the value of an RLVR loss says nothing about progress
        drawn = [(title, values) for title, values in drawn if title != "loss"]
    return charts(drawn, min(console.width, WIDEST))


def _example_clip(inputs: object) -> str | None:
    """Find the file of a clip that a task has read, if it holds its clips."""
    clips = vars(inputs).get("clips")
    examples = [] if clips is None else [e for split in clips.examples.values() for e in split[:8]]
    return next((short(e.video) for e in examples if e.video is not None), None)


def next_commands(
    config: Mapping[str, Any],
    typed: Mapping[str, Any],
    run: Path,
    clip: str | None,
    hydra: Any,
) -> list[list[str]]:
    """List the arguments of commands that make sense after a task; each of them composes.

    Args:
        config: The resolved config of the task.
        typed: Its typed groups.
        run: The folder of the run.
        clip: A clip for task=predict; None for no such command.
        hydra: What Hydra says of the task: its overrides, options and folders of options.
    """
    found: list[list[str]] = []
    for name, own in _candidates(config, typed["task"], typed["stage"], run, clip):
        overrides = own if name.startswith("task=") else _completed(name, own, hydra)
        if overrides and len(found) < NUM_COMMANDS:
            found.append([*_flags(hydra), *overrides])
    return found


def _candidates(
    config: Mapping[str, Any], task: object, stage: LoopConfig, run: Path, clip: str | None
) -> Iterator[tuple[str, list[str]]]:
    """Yield experiments that may follow, the best ones first, with overrides of their own."""
    trains, path = isinstance(task, TrainTask), config["model"]["path"]
    if isinstance(task, PipelineTask):
        path = run / [*task.stages][-1] / CHECKPOINT
    elif trains:
        path = run / CHECKPOINT
    onto = [] if path is None else [_written("model.path", short(Path(path)))]
    if isinstance(task, TrainTask) and not stage.samples:
        yield "rlvr", onto
    if isinstance(task, TrainTask) and not task.evaluate_after.splits:
        yield "evaluate", onto
    if isinstance(task, AttributeTask):
        yield "task=report", ["task=report", _written("runs", short(run)), "+html=true"]
    elif not trains or stage.samples:
        yield "attribute", onto
    if isinstance(task, EvaluateTask):
        yield "task=report", ["task=report", _written("runs", short(run.parent))]
    has_page = importlib.util.find_spec("gradio") is not None
    if has_page and (not trains or stage.samples):
        yield "serve", onto
    if clip is not None:
        yield "predict", [*onto, f"+{_written('video', clip)}"]
    skips = config["dataset"]["on_bad_media"] == "skip"  # else a silent clip would end that run
    if config["modality"]["name"] == "video_audio" and skips:
        yield "evaluate", [*onto, "modality=audio"]
    if has_page and trains and not stage.samples:
        yield "serve", onto


def _completed(name: str, own: Sequence[str], hydra: Any) -> list[str]:
    """Add the present command's overrides for clips and models; [] if the result does not compose.

    An experiment of the same family is preferred: ``r1_omni/evaluate`` after ``r1_omni/rlvr``.
    """
    sources, choices = hydra.runtime.config_sources, hydra.runtime.choices
    folders = [Path(source.path) for source in sources if source.schema == "file"]
    family = str(choices.get("experiment") or "").rpartition("/")[0]
    own_family = f"{family}/{name}" in options_in(folders).get("experiment", [])
    carried = [text for text in hydra.overrides.task if _is_carried(text, trains=name == "rlvr")]
    keys = {_key(text) for text in [*carried, *own]}
    carried = [text for text in carried if _key(text) not in {_key(other) for other in own}]
    if not own_family:
        carried[:0] = [
            f"{group}={choices[group]}"
            for group, usual in USUAL.items()
            if group not in keys and choices[group] not in (usual, "compose")
        ]
    overrides = [f"+experiment={family}/{name}" if own_family else f"+experiment={name}"]
    overrides += [*carried, *own]
    if name == "serve" and (family or "model" in keys):
        overrides.append("task.compare=null")  # the latest cold start may be of another model
    try:
        config, typed = check_values(_composed(overrides, hydra))
    except COMPOSING_ERRORS:
        return []
    dataset: DatasetConfig = typed["dataset"]
    wanted = config["task"].get("splits") or []
    if isinstance(typed["task"], TrainTask):
        wanted = [dataset.train_split]
    there = [
        split for split in wanted if split in dataset.splits and not lacks_file(dataset, split)
    ]
    if there != wanted and not isinstance(typed["task"], TrainTask):
        overrides.append(f"task.splits=[{','.join(there)}]")
    return overrides if there or not wanted else []


def _composed(overrides: Sequence[str], hydra: Any) -> DictConfig:
    """Compose a command with the options of the user's own that the present one has."""
    own = ",".join(f"file://{path}" for path in _own_folders(hydra))
    return compose_step([*overrides, *([f"hydra.searchpath=[{own}]"] if own else [])])


def _own_folders(hydra: Any) -> list[str]:
    """List the folders of a user's own options, if the command named one."""
    sources = hydra.runtime.config_sources
    return [source.path for source in sources if source.provider == "command-line"]


def _flags(hydra: Any) -> list[str]:
    """Name these folders again."""
    own = _own_folders(hydra)
    return [text for path in own for text in ("--config-dir", short(Path(path)))]


def _is_carried(text: str, *, trains: bool) -> bool:
    """Tell whether an override of this command belongs to the next ones."""
    key = _key(text)
    if text.startswith("~") or _below(key, OWN) or (_below(key, TRAINABLE) and not trains):
        return False
    if key == "hardware":
        return trains
    return _below(key, CARRIED) and text != "model=compose"


def _below(key: str, tops: Sequence[str]) -> bool:
    return any(key == top or key.startswith((f"{top}.", f"{top}/")) for top in tops)


def _key(text: str) -> str:
    return text.partition("=")[0].lstrip("+")


def _written(key: str, value: str) -> str:
    """Write an override, in quotes only where Hydra needs them."""
    return f"{key}={value}" if PLAIN.fullmatch(value) else override(key, value)
