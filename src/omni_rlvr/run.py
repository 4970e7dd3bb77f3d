"""What each task does with its parts: one function a task."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from omni_rlvr.build import Parts, build, compose_step
from omni_rlvr.config import schema
from omni_rlvr.data.collate import Collate
from omni_rlvr.data.datamodule import StepSampler, TrainData, evaluation_loader, move, num_steps
from omni_rlvr.data.dataset import ClipDataset
from omni_rlvr.media.isolated import ClipReader
from omni_rlvr.record import RunRecord, append_jsonl, keep_steps, point_to, read_json, read_jsonl, write_json
from omni_rlvr.training.callbacks import Checkpoints, CleanStop, Resume
from omni_rlvr.training.evaluate import Evaluation, evaluate
from omni_rlvr.training.module import RLVRModule
from omni_rlvr.types import Example, UserError

log = logging.getLogger(__name__)


def run(parts: Parts) -> None:
    """Does a task.

    Raises:
        UserError: something a user can mend.
    """
    tasks = {
        schema.TrainTask: train,
        schema.EvaluateTask: evaluate_splits,
        schema.PreviewTask: preview,
        schema.PipelineTask: pipeline,
    }
    tasks[type(parts.task)](parts)


def train(parts: Parts) -> None:
    """Trains one stage; leaves a checkpoint, metrics and completions in the run's folder."""
    loop, dataset, seed = parts.loop, parts.dataset, parts.config["seed"]
    resume = Resume(parts.run_dir) if parts.resume else None
    start = resume.step if resume else 0
    for file in ("metrics.jsonl", "completions.jsonl"):
        keep_steps(parts.run_dir / file, start)
    examples = parts.examples[dataset.train_split]
    steps = num_steps(
        len(examples),
        batch_size=loop.batch_size,
        num_train_epochs=loop.num_train_epochs,
        max_steps=loop.max_steps,
    )
    data = TrainData(
        clip_dataset(parts, examples),
        Collate(parts.policy.processor, parts.stage.with_target),
        StepSampler(len(examples), batch_size=loop.batch_size, num_steps=steps, start=start, seed=seed),
        num_workers=dataset.num_workers,
    )
    stop = CleanStop()
    saves = Checkpoints(parts.run_dir, loop.save_steps, parts.latest)
    callbacks = [*parts.callbacks, stop, *([resume] if resume else []), saves]
    trainer = parts.make_trainer(callbacks=callbacks, logger=list(parts.loggers))
    with recorded(parts, device=str(trainer.strategy.root_device)) as record:
        module = RLVRModule(
            parts.policy.train(),
            parts.stage,
            parts.make_optimizer,
            loop,
            record,
            num_updates=steps * updates_per_step(loop),
            seed=seed,
        )
        trainer.fit(module, datamodule=data)
        parts.policy.eval()
        record.finish("interrupted" if stop.asked else "finished")
    if stop.asked:
        log.warning("stopped at step %d of %d; go on with resume=%s", module.step, steps, parts.run_dir)
        sys.exit(130)
    print(f"checkpoint: {parts.run_dir / 'checkpoint'}")


def evaluate_splits(parts: Parts) -> dict[str, dict]:
    """Evaluates a policy on each split of the task; returns each split's scores."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts.policy.to(device).eval()
    scores = {}
    with recorded(parts, device=str(device)) as record:
        for split in parts.task.splits:
            result = _evaluate_split(parts, split, device)
            record.add_skipped((clip.example.id, clip.reason) for clip in result.skipped)
            _write_evaluation(parts.run_dir / split, split, result)
            scores[split] = result.scores
            print(
                f"{split}: WAR {result.scores['war']:.1f}  UAR {result.scores['uar']:.1f}  "
                f"format {result.scores['format']:.1f}  ({result.scores['num_clips']} clips)"
            )
        record.finish("finished")
    if parts.latest is not None:
        point_to(parts.latest, parts.run_dir)
    return scores


def preview(parts: Parts) -> None:
    """Draws a sheet of a split's first clips."""
    from omni_rlvr.analysis.preview import preview_sheet
    from omni_rlvr.types import Sample

    examples = parts.examples[parts.task.split][: parts.task.num_clips]
    dataset = clip_dataset(parts, examples, num_frames=8, sample_rate=16_000)
    samples = [item for item in (dataset[i] for i in range(len(dataset))) if isinstance(item, Sample)]
    if not samples:
        raise UserError(f"task.split={parts.task.split}: none of the first {len(examples)} clips could be read")
    path = parts.run_dir / "preview.png"
    preview_sheet(samples, path, sample_rate=16_000, max_reasoning_chars=parts.task.max_reasoning_chars)
    print(f"preview: {path}")


def pipeline(parts: Parts) -> None:
    """Trains the stages in order, evaluates every model, and ends in one table with pictures."""
    from omni_rlvr.analysis.summary import oracle_scores, summarise, write_summary
    from omni_rlvr.analysis.tables import summary_table

    task, seconds = parts.task, {}
    folders = {name: parts.run_dir / name for name in task.stages}

    def step(overrides: list[str], name: str) -> Parts:
        filled = [text.format(**{k: v / "checkpoint" for k, v in folders.items()}) for text in overrides]
        return build(compose_step([*task.shared, *filled]), parts.run_dir / name, None)

    with recorded(parts, device="cpu") as record:
        for name, overrides in task.stages.items():
            with timed(seconds, name):
                train(step(overrides, name))
        models, examples = {}, {}
        for name, overrides in task.evaluate.items():
            with timed(seconds, f"evaluate_{name}"):
                evaluation = step([*overrides, f"task.splits=[{','.join(task.splits)}]"], f"evaluate/{name}")
                models[name], examples = evaluate_splits(evaluation), evaluation.examples
        modality = {}
        for name, overrides in task.modality.items():
            with timed(seconds, f"evaluate_{name}"):
                evaluation = step([*overrides, f"task.splits=[{task.splits[0]}]"], f"evaluate/modality_{name}")
                modality[name] = evaluate_splits(evaluation)[task.splits[0]]
        summary = summarise(models, modality, oracle_scores(examples), seconds)
        files = write_summary(parts.run_dir, summary, models, folders, parts.dataset.labels)
        record.finish("finished")
    if parts.latest is not None:
        point_to(parts.latest, parts.run_dir)
    Console().print(summary_table(summary))
    print("written:", *(str(file) for file in files), sep="\n  ")


def clip_dataset(parts: Parts, examples: list[Example], **settings: int) -> ClipDataset:
    """Makes the dataset that reads these examples' clips, as the policy's processor wants them."""
    if parts.policy is not None:
        processor = parts.policy.processor
        settings = {"num_frames": processor.settings.num_frames, "sample_rate": processor.sample_rate}
    return ClipDataset(
        examples,
        ClipReader(parts.dataset.decode_timeout_s, parts.dataset.max_clips_per_process),
        video=parts.modality.video,
        audio=parts.modality.audio,
        on_bad_media=parts.dataset.on_bad_media,
        **settings,
    )


def updates_per_step(loop: schema.LoopConfig) -> int:
    """Counts optimiser steps per batch of prompts."""
    return loop.num_iterations * loop.num_minibatches if isinstance(loop, schema.GrpoConfig) else 1


@contextlib.contextmanager
def recorded(parts: Parts, *, device: str) -> Iterator[RunRecord]:
    """Opens run.json and says "failed" there if the task raises."""
    record = RunRecord(parts.run_dir, parts.config, device=device)
    try:
        yield record
    except BaseException as error:
        record.update(error=f"{type(error).__name__}: {error}")
        record.finish("failed")
        raise


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes how long a step took."""
    print(f"== {name.replace('_', ' ')}", flush=True)
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 1)


@contextlib.contextmanager
def progress_bar(title: str, total: int) -> Iterator[Progress]:
    """A bar for work that is not training."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        progress.add_task(title, total=total)
        yield progress


def _evaluate_split(parts: Parts, split: str, device: torch.device) -> Evaluation:
    task, examples = parts.task, parts.examples[split]
    examples = examples[: task.max_clips] if task.max_clips else examples
    loader = evaluation_loader(
        clip_dataset(parts, examples),
        Collate(parts.policy.processor, with_target=False),
        batch_size=task.batch_size,
        num_workers=parts.dataset.num_workers,
    )
    with progress_bar(f"evaluating {split}", len(examples)) as progress:
        return evaluate(
            parts.policy,
            (move(batch, device) for batch in loader),
            parts.dataset.labels,
            max_completion_length=task.max_completion_length,
            num_resamples=task.num_resamples,
            on_batch=lambda done: progress.advance(progress.task_ids[0], done),
        )


def _write_evaluation(folder: Path, split: str, result: Evaluation) -> None:
    from omni_rlvr.analysis.plots import confusion_figure

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.jsonl").unlink(missing_ok=True)
    append_jsonl(folder / "predictions.jsonl", result.predictions)
    write_json(folder / "metrics.json", result.scores)
    title = f"{split}: WAR {result.scores['war']:.1f} %, UAR {result.scores['uar']:.1f} %"
    confusion_figure(result.scores["confusion"], result.scores["labels"], title, folder / "confusion.png")
