"""Trains one stage."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Console

from omni_rlvr import distributed, stopping
from omni_rlvr.assembly.parts import TrainParts
from omni_rlvr.data.loader import StepSampler, TrainData, num_steps
from omni_rlvr.pointers import CHECKPOINT, CHECKPOINTS, clear_way, point_to, step_folder
from omni_rlvr.record import keep_steps
from omni_rlvr.tasks.attribute.probe import ModalityProbe
from omni_rlvr.tasks.clips import collate, keeper, processed_clips
from omni_rlvr.tasks.evaluate import score_splits
from omni_rlvr.tasks.lifecycle import recorded
from omni_rlvr.tasks.report.text_tables import trainable_table
from omni_rlvr.training.callbacks import Checkpoints, CleanStop, Resume, Unrewarded
from omni_rlvr.training.checkpoint import take_in_copy
from omni_rlvr.training.devices import take_device
from omni_rlvr.training.loggers import CompletionsTable, tracking
from omni_rlvr.training.module import RLVRModule
from omni_rlvr.training.progress import ProgressBar
from omni_rlvr.training.trainer import build_trainer, keep_freed_memory
from omni_rlvr.types import Interrupted

LOOK_ON = (CompletionsTable, ModalityProbe, ProgressBar, Unrewarded)
"""Callbacks that change nothing of a run: of several ranks the first has them."""


def train_stage(parts: TrainParts) -> None:
    """Trains one stage; leaves a checkpoint, metrics and completions in the run's folder."""
    loop, run_dir = parts.loop, parts.place.run_dir
    seed = parts.place.config["seed"]
    resume = Resume(parts.resume) if parts.resume else None
    start = resume.step if resume else 0
    keep_freed_memory()
    data, steps = _data(parts, start, seed)
    saves = Checkpoints(run_dir, loop, parts.place.latest)
    own = [*([resume] if resume else []), CleanStop(), saves]
    loggers = parts.loggers if distributed.is_first() else {}
    callbacks = [c for c in parts.callbacks if distributed.is_first() or not isinstance(c, LOOK_ON)]
    device = take_device(parts.place.config["trainer"], distributed.rank())
    trainer = build_trainer(parts.make_trainer, [*callbacks, *own], device)
    Console().print(trainable_table(parts.counts))
    with recorded(parts.place, device=str(trainer.strategy.root_device)) as record:
        if distributed.is_first():
            _go_back(parts, start)
        record.update(origin=parts.origin, trainable=[asdict(count) for count in parts.counts])
        with tracking(loggers, record, start) as trackers:
            trainer.loggers = [*trackers]
            module = RLVRModule(
                parts.policy.train(),
                parts.stage,
                parts.engine,
                parts.make_optimizer,
                loop,
                record,
                on_features=keeper(parts.cache),
                num_updates=steps * loop.updates_per_step,
                seed=seed,
            )
            if start < steps:
                try:
                    with stopping.noted(alone=distributed.num_ranks() == 1):
                        trainer.fit(module, datamodule=data)
                except SystemExit as end:  # Lightning's answer to a second Ctrl-C
                    raise KeyboardInterrupt from end
            parts.policy.eval()
            if start < steps and any(distributed.gather(stopping.asked())):
                raise Interrupted(
                    f"stopped at step {module.step} of {steps}; resume={run_dir} goes on"
                )
            if parts.evaluation is not None:
                scores = score_splits(parts.evaluation, record, device)
                for tracker in trackers:
                    tracker.log_scores(scores, step=steps)
            record.finish("finished")
    print(f"checkpoint: {run_dir / CHECKPOINT}")


def _go_back(parts: TrainParts, start: int) -> None:
    """Bring the run's folder to what it was after step ``start``."""
    run_dir = parts.place.run_dir
    for file in ("metrics.jsonl", "completions.jsonl"):
        keep_steps(run_dir / file, start)
    take_in_copy(run_dir, start)
    chosen = parts.resume or step_folder(run_dir, start)
    if chosen.parent.name == CHECKPOINTS:
        clear_way(run_dir / CHECKPOINT, chosen)
        if chosen.is_dir():
            point_to(run_dir / CHECKPOINT, chosen)


def _data(parts: TrainParts, start: int, seed: int) -> tuple[TrainData, int]:
    """Makes the training data from step ``start`` on, and counts the steps of the whole run."""
    loop, dataset, processor = parts.loop, parts.clips.dataset, parts.policy.processor
    examples = parts.clips.examples[dataset.train_split]
    steps = num_steps(
        len(examples),
        batch_size=loop.batch_size,
        num_train_epochs=loop.num_train_epochs,
        max_steps=loop.max_steps,
    )
    data = TrainData(
        processed_clips(parts.clips, examples, processor, parts.cache),
        collate(processor, parts.cache, with_target=parts.stage.with_target),
        StepSampler(
            len(examples),
            batch_size=loop.batch_size,
            num_steps=steps,
            start=start,
            seed=seed,
            rank=distributed.rank(),
            num_ranks=distributed.num_ranks(),
        ),
        num_workers=dataset.num_workers,
        on_bad_media=dataset.on_bad_media,
    )
    return data, steps
