"""Trains one stage."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Console

from omni_rlvr.analysis.tables import trainable_table
from omni_rlvr.data.datamodule import StepSampler, TrainData, num_steps
from omni_rlvr.parts import EvaluateParts, TrainParts
from omni_rlvr.record import RunRecord, keep_steps
from omni_rlvr.run.clips import collate, keeper, processed_clips
from omni_rlvr.run.evaluate import score_splits
from omni_rlvr.run.lifecycle import recorded
from omni_rlvr.training.allocator import keep_freed_memory
from omni_rlvr.training.callbacks import Checkpoints, CleanStop, Resume
from omni_rlvr.training.evaluate import device_of
from omni_rlvr.training.module import RLVRModule
from omni_rlvr.training.trackers import log_scores, tracking
from omni_rlvr.training.trainer import build_trainer
from omni_rlvr.types import Interrupted


def train_stage(parts: TrainParts) -> None:
    """Trains one stage; leaves a checkpoint, metrics and completions in the run's folder."""
    loop, run_dir = parts.loop, parts.place.run_dir
    seed = parts.place.config["seed"]
    resume = Resume(run_dir) if parts.resume else None
    start = resume.step if resume else 0
    for file in ("metrics.jsonl", "completions.jsonl"):
        keep_steps(run_dir / file, start)
    keep_freed_memory()
    data, steps = _data(parts, start, seed)
    stop = CleanStop()
    saves = Checkpoints(run_dir, loop.save_steps, parts.place.latest)
    own = [*([resume] if resume else []), stop, saves]
    trainer = build_trainer(parts.make_trainer, parts.loggers, [*parts.callbacks, *own])
    Console().print(trainable_table(parts.counts))
    device = str(trainer.strategy.root_device)
    with (
        recorded(parts.place, device=device) as record,
        tracking(parts.loggers, parts.place.config),
    ):
        record.update(trainable=[asdict(count) for count in parts.counts])
        module = RLVRModule(
            parts.policy.train(),
            parts.stage,
            parts.make_optimizer,
            loop,
            record,
            on_features=keeper(parts.cache),
            num_updates=steps * loop.updates_per_step,
            seed=seed,
        )
        if start < steps:
            trainer.fit(module, datamodule=data)
        parts.policy.eval()
        if stop.asked:
            raise Interrupted(f"stopped at step {module.step} of {steps}; resume={run_dir} goes on")
        if parts.evaluation is not None:
            log_scores(parts.loggers, _evaluate(parts.evaluation, record), step=steps)
        record.finish("finished")
    print(f"checkpoint: {run_dir / 'checkpoint'}")


def _evaluate(parts: EvaluateParts, record: RunRecord) -> dict[str, dict]:
    return score_splits(parts, record, device_of(parts.place.config["trainer"]["accelerator"]))


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
            len(examples), batch_size=loop.batch_size, num_steps=steps, start=start, seed=seed
        ),
        num_workers=dataset.num_workers,
        on_bad_media=dataset.on_bad_media,
    )
    return data, steps
