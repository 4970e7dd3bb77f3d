"""What each task does with its parts: one function a task."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console

from omni_rlvr.build import (
    Clips,
    EvaluateParts,
    Parts,
    PipelineParts,
    Place,
    PreviewParts,
    TrainParts,
    build,
    compose_step,
)
from omni_rlvr.data.collate import Collate
from omni_rlvr.data.datamodule import (
    StepSampler,
    TrainData,
    evaluation_loader,
    move,
    num_steps,
    refuse_bad_media,
)
from omni_rlvr.data.dataset import ClipDataset
from omni_rlvr.media.isolated import ClipReader
from omni_rlvr.models.processing import Processor
from omni_rlvr.record import RunRecord, append_jsonl, keep_steps, point_to, write_json
from omni_rlvr.training.callbacks import Checkpoints, CleanStop, Resume
from omni_rlvr.training.evaluate import Evaluation, device_of, evaluate
from omni_rlvr.training.module import RLVRModule
from omni_rlvr.training.progress import progress_bar
from omni_rlvr.types import Example, Interrupted, Sample, UserError

log = logging.getLogger(__name__)


def run(parts: Parts) -> None:
    """Does a task.

    Raises:
        UserError: something a user can mend.
    """
    if isinstance(parts, TrainParts):
        train(parts)
    elif isinstance(parts, EvaluateParts):
        evaluate_splits(parts)
    elif isinstance(parts, PreviewParts):
        preview(parts)
    else:
        pipeline(parts)


def train(parts: TrainParts) -> None:
    """Trains one stage; leaves a checkpoint, metrics and completions in the run's folder."""
    loop, dataset, run_dir = parts.loop, parts.clips.dataset, parts.place.run_dir
    seed = parts.place.config["seed"]
    resume = Resume(run_dir) if parts.resume else None
    start = resume.step if resume else 0
    for file in ("metrics.jsonl", "completions.jsonl"):
        keep_steps(run_dir / file, start)
    examples = parts.clips.examples[dataset.train_split]
    steps = num_steps(
        len(examples),
        batch_size=loop.batch_size,
        num_train_epochs=loop.num_train_epochs,
        max_steps=loop.max_steps,
    )
    processor = parts.policy.processor
    data = TrainData(
        processed_clips(parts.clips, examples, processor),
        Collate(processor, parts.stage.with_target),
        StepSampler(
            len(examples), batch_size=loop.batch_size, num_steps=steps, start=start, seed=seed
        ),
        num_workers=dataset.num_workers,
        on_bad_media=dataset.on_bad_media,
    )
    stop = CleanStop()
    saves = Checkpoints(run_dir, loop.save_steps, parts.place.latest)
    trainer = _make_trainer(parts, [*([resume] if resume else []), stop, saves])
    with recorded(parts.place, device=str(trainer.strategy.root_device)) as record:
        module = RLVRModule(
            parts.policy.train(),
            parts.stage,
            parts.make_optimizer,
            loop,
            record,
            num_updates=steps * loop.updates_per_step,
            seed=seed,
        )
        if start < steps:
            trainer.fit(module, datamodule=data)
        parts.policy.eval()
        if stop.asked:
            raise Interrupted(f"stopped at step {module.step} of {steps}; resume={run_dir} goes on")
        record.finish("finished")
    print(f"checkpoint: {run_dir / 'checkpoint'}")


def evaluate_splits(parts: EvaluateParts) -> dict[str, dict]:
    """Evaluates a policy on each split of the task; returns each split's scores."""
    device = device_of(parts.place.config["trainer"]["accelerator"])
    parts.policy.eval().to(device=device)
    scores = {}
    with recorded(parts.place, device=str(device)) as record:
        for split in parts.task.splits:
            result = _evaluate_split(parts, split, device)
            record.add_skipped((clip.example.id, clip.reason) for clip in result.skipped)
            _write_evaluation(parts.place.run_dir / split, split, result)
            scores[split] = result.scores
            print(
                f"{split}: WAR {result.scores['war']:.1f}  UAR {result.scores['uar']:.1f}  "
                f"format {result.scores['format']:.1f}  ({result.scores['num_clips']} clips)"
            )
        record.finish("finished")
    _move_latest(parts.place)
    return scores


def preview(parts: PreviewParts) -> None:
    """Draws a sheet of a split's first clips."""
    from omni_rlvr.analysis.preview import preview_sheet

    task, sample_rate = parts.task, 16_000
    examples = parts.clips.examples[task.split][: task.num_clips]
    dataset = clip_dataset(parts.clips, examples, num_frames=8, sample_rate=sample_rate)
    read = [dataset[i] for i in range(len(dataset))]
    samples = [item for item in read if isinstance(item, Sample)]
    if not samples:
        raise UserError(
            f"task.split={task.split}: none of the first {len(examples)} clips could be read"
        )
    path = parts.place.run_dir / "preview.png"
    with recorded(parts.place, device="cpu") as record:
        preview_sheet(
            samples, path, sample_rate=sample_rate, max_reasoning_chars=task.max_reasoning_chars
        )
        record.finish("finished")
    print(f"preview: {path}")


def pipeline(parts: PipelineParts) -> None:
    """Trains the stages in order, evaluates every model, and ends in one table with pictures."""
    from omni_rlvr.analysis.summary import oracle_scores, summarise, write_summary
    from omni_rlvr.analysis.tables import summary_table

    task, run_dir = parts.task, parts.place.run_dir
    folders = {name: run_dir / name for name in task.stages}
    seconds: dict[str, float] = {}
    with recorded(parts.place, device="cpu") as record:
        for name, overrides in task.stages.items():
            with timed(seconds, name):
                run(_step(parts, overrides, folders, name))
        models: dict[str, dict] = {}
        examples: dict[str, list[Example]] = {}
        for name, overrides in task.evaluate.items():
            with timed(seconds, f"evaluate {name}"):
                over = [*overrides, f"task.splits=[{','.join(task.splits)}]"]
                evaluation = _step(parts, over, folders, f"evaluate/{name}")
                models[name] = evaluate_splits(evaluation)
                examples = evaluation.clips.examples
        modality: dict[str, dict] = {}
        for name, overrides in task.modality.items():
            with timed(seconds, f"evaluate modality {name}"):
                over = [*overrides, f"task.splits=[{task.splits[0]}]"]
                evaluation = _step(parts, over, folders, f"evaluate/modality_{name}")
                modality[name] = evaluate_splits(evaluation)[task.splits[0]]
        summary = summarise(models, modality, oracle_scores(examples), seconds)
        files = write_summary(run_dir, summary, models, folders, parts.labels)
        record.finish("finished")
    _move_latest(parts.place)
    Console().print(summary_table(summary))
    print("written:", *(str(file) for file in files), sep="\n  ")


def clip_dataset(
    clips: Clips, examples: list[Example], *, num_frames: int, sample_rate: int
) -> ClipDataset:
    """Makes the dataset that reads these examples' clips."""
    return ClipDataset(
        examples,
        ClipReader(clips.dataset.decode_timeout_s, clips.dataset.max_clips_per_process),
        num_frames=num_frames,
        sample_rate=sample_rate,
        video=clips.modality.video,
        audio=clips.modality.audio,
    )


def processed_clips(clips: Clips, examples: list[Example], processor: Processor) -> ClipDataset:
    """Makes the dataset that reads clips as a policy's processor wants them."""
    return clip_dataset(
        clips,
        examples,
        num_frames=processor.settings.num_frames,
        sample_rate=processor.sample_rate,
    )


@contextlib.contextmanager
def recorded(place: Place, *, device: str) -> Iterator[RunRecord]:
    """Opens run.json and says there how the task ended if it did not finish."""
    record = RunRecord(place.run_dir, place.config, device=device)
    try:
        yield record
    except BaseException as error:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        try:
            record.update(error=None if stopped else f"{type(error).__name__}: {error}")
            record.finish("interrupted" if stopped else "failed")
        except OSError as second:  # a full disk; what went wrong first is what the user must see
            log.warning("run.json could not be updated: %s", second)
        raise


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes how long a step took."""
    print(f"== {name.replace('_', ' ')}", flush=True)
    started = time.perf_counter()
    yield
    seconds[name.replace(" ", "_")] = round(time.perf_counter() - started, 1)


def _make_trainer(parts: TrainParts, callbacks: list[Callback]) -> Trainer:
    # raised by Lightning with today's torch, and nothing a user can act on
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
    # the towers are frozen, and in eval mode on purpose
    warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # no tips and no adverts
    try:
        return parts.make_trainer(
            max_epochs=1,  # one pass over the step sampler is the run
            callbacks=[*parts.callbacks, *callbacks],
            logger=list(parts.loggers),
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UserError(f"trainer: {error}") from error


def _step(parts: PipelineParts, overrides: list[str], folders: dict[str, Path], name: str):
    """Composes and builds one step of a pipeline; ``{stage}`` becomes that stage's checkpoint."""
    checkpoints = {stage: folder / "checkpoint" for stage, folder in folders.items()}
    filled = [text.format(**checkpoints) for text in overrides]
    cfg = compose_step([*parts.task.shared, *filled])
    return build(cfg, parts.place.run_dir / name, None)


def _evaluate_split(parts: EvaluateParts, split: str, device: torch.device) -> Evaluation:
    task, examples = parts.task, parts.clips.examples[split]
    on_bad_media = parts.clips.dataset.on_bad_media
    examples = examples[: task.max_clips] if task.max_clips else examples
    processor = parts.policy.processor
    loader = evaluation_loader(
        processed_clips(parts.clips, examples, processor),
        Collate(processor, with_target=False),
        batch_size=task.batch_size,
        num_workers=parts.clips.dataset.num_workers,
    )
    with progress_bar(f"evaluating {split}", len(examples)) as progress:
        return evaluate(
            parts.policy,
            parts.roll_out,
            (move(refuse_bad_media(batch, on_bad_media), device) for batch in loader),
            parts.clips.dataset.labels,
            max_completion_length=task.max_completion_length,
            num_resamples=task.num_resamples,
            on_batch=lambda done: progress.advance(progress.task_ids[0], done),
        )


def _write_evaluation(folder: Path, split: str, result: Evaluation) -> None:
    from omni_rlvr.analysis.plots import confusion_figure

    scores = result.scores
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.jsonl").unlink(missing_ok=True)
    append_jsonl(folder / "predictions.jsonl", result.predictions)
    write_json(folder / "metrics.json", scores)
    title = f"{split}: WAR {scores['war']:.1f} %, UAR {scores['uar']:.1f} %"
    confusion_figure(scores["confusion"], scores["labels"], title, folder / "confusion.png")


def _move_latest(place: Place) -> None:
    if place.latest is not None:
        point_to(place.latest, place.run_dir)
