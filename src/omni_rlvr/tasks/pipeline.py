"""Trains several stages, evaluates every model, and ends in one table."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console

from omni_rlvr.assembly.assemble import build
from omni_rlvr.assembly.parts import Parts, PipelineParts
from omni_rlvr.assembly.pipeline import compose_filled
from omni_rlvr.tasks.evaluate import evaluate_splits
from omni_rlvr.tasks.lifecycle import move_latest, recorded
from omni_rlvr.types import Example

ONE_DEVICE = "trainer.devices=1"
"""Evaluations of a pipeline run in its own process, whose models follow one another."""


def run_pipeline(parts: PipelineParts, run: Callable[[Parts], None]) -> None:
    """Trains the stages in order, evaluates every model, and ends in one table with pictures.

    Args:
        parts: the steps.
        run: does one step's task.
    """
    from omni_rlvr.tasks.report.summary import oracle_scores, summarise, write_summary
    from omni_rlvr.tasks.report.text_tables import summary_table

    task, run_dir = parts.task, parts.place.run_dir
    folders = {name: run_dir / name for name in task.stages}
    seconds: dict[str, float] = {}
    with recorded(parts.place, device="cpu") as record:
        for name, overrides in task.stages.items():
            with timed(seconds, name):
                run(_step(parts, overrides, name))
        models: dict[str, dict] = {}
        examples: dict[str, Sequence[Example]] = {}
        for name, overrides in task.evaluate.items():
            with timed(seconds, f"evaluate {name}"):
                over = [*overrides, f"task.splits=[{','.join(task.splits)}]", ONE_DEVICE]
                evaluation = _step(parts, over, f"evaluate/{name}")
                models[name] = evaluate_splits(evaluation)
                examples = evaluation.clips.examples
        modality: dict[str, dict] = {}
        for name, overrides in task.modality.items():
            with timed(seconds, f"evaluate modality {name}"):
                over = [*overrides, f"task.splits=[{task.splits[0]}]", ONE_DEVICE]
                evaluation = _step(parts, over, f"evaluate/modality_{name}")
                modality[name] = evaluate_splits(evaluation)[task.splits[0]]
        summary = summarise(models, modality, oracle_scores(examples), seconds)
        files = write_summary(run_dir, summary, models, folders, parts.labels)
        record.finish("finished")
    move_latest(parts.place)
    Console().print(summary_table(summary))
    print("written:", *(str(file) for file in files), sep="\n  ")


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Print the name of a step, and note how long it takes."""
    print(f"== {name.replace('_', ' ')}", flush=True)
    started = time.perf_counter()
    yield
    seconds[name.replace(" ", "_")] = round(time.perf_counter() - started, 1)


def _step(parts: PipelineParts, overrides: list[str], name: str):
    """Build one step; ``{stage}`` becomes that stage's checkpoint."""
    run_dir = parts.place.run_dir
    return build(compose_filled(parts.task, overrides, run_dir), run_dir / name, None)
