"""The task ``train``: train one stage, and optionally evaluate the trained policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from rich.console import Console
from torch.optim import Optimizer

from omni_rlvr import distributed, stopping
from omni_rlvr.assembly.composed import Clips, Composed, Place
from omni_rlvr.assembly.instantiate import make
from omni_rlvr.assembly.origin import check_origin, origin_of
from omni_rlvr.assembly.policies import feature_cache, load_policy, load_resumed, write_base
from omni_rlvr.assembly.resume import check_resume, resumed_checkpoint
from omni_rlvr.assembly.splits import check_gold_labels, check_reasoning, read_clips
from omni_rlvr.assembly.stage import build_reward, build_stage, check_rollout
from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.config.stage import LoopConfig
from omni_rlvr.config.tasks import EvaluateTask
from omni_rlvr.data.annotations.example_table import texts
from omni_rlvr.data.features.cache import FeatureCache
from omni_rlvr.data.loader import StepSampler, TrainData
from omni_rlvr.models.adapters.trainable import Count, apply
from omni_rlvr.models.loading.hub import find_checkpoint
from omni_rlvr.models.loading.load import put_onto
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.trained_on import trained_on
from omni_rlvr.pointers import CHECKPOINT, CHECKPOINTS, clear_way, follow, point_to, step_folder
from omni_rlvr.ranks import rendezvous
from omni_rlvr.record import keep_steps
from omni_rlvr.rollout.engine import RolloutEngine
from omni_rlvr.stages.base import Stage
from omni_rlvr.tasks.clips import PolicyInputs, collate, keeper, processed_clips
from omni_rlvr.tasks.evaluate import score_splits
from omni_rlvr.tasks.launch import Launch, launch_of
from omni_rlvr.tasks.lifecycle import recorded
from omni_rlvr.tasks.plan.task import check_before_loading
from omni_rlvr.tasks.report.text_tables import trainable_table
from omni_rlvr.training.callbacks import Checkpoints, CleanStop, Resume, Unrewarded
from omni_rlvr.training.checkpoint import restore_link
from omni_rlvr.training.devices import take_device
from omni_rlvr.training.loggers import CompletionsTable, check_installed, tracking
from omni_rlvr.training.model_card import write_card
from omni_rlvr.training.module import RLVRModule
from omni_rlvr.training.parallel import parallel_of
from omni_rlvr.training.progress import ProgressBar
from omni_rlvr.training.trainer import build_trainer, keep_freed_memory
from omni_rlvr.types import Interrupted, UserError

LOOK_ON = (CompletionsTable, ProgressBar, Unrewarded)
"""Callbacks that only observe a run, so that only the first of several ranks needs them."""


@dataclass(frozen=True)
class TrainInputs:
    """The inputs of ``run``."""

    place: Place
    clips: Clips
    policy: Policy
    cache: FeatureCache | None
    stage: Stage
    engine: RolloutEngine
    loop: LoopConfig
    make_optimizer: Callable[..., Optimizer]
    make_trainer: Callable[..., pl.Trainer]
    loggers: Mapping[str, partial[Logger]]
    """Name in the group ``logger`` -> a partial that builds it when the run begins or resumes."""
    callbacks: Sequence[pl.Callback]
    resume: Path | None
    """The checkpoint of the same run that it is resumed from; None for a new run."""
    origin: dict[str, str]
    """Digests of the weights and examples that training starts from, written to run.json."""
    counts: Sequence[Count]
    """The number of trained weights in each part of the model."""
    evaluation: PolicyInputs | None
    """The evaluation of the trained policy; None for no evaluation."""


def build(composed: Composed) -> TrainInputs | Launch:
    """Read the annotations, score gold answers, load the policy, and build the training loop."""
    cfg, place = composed.cfg, composed.place
    if cfg.resume is not None and rendezvous.is_first():  # the first rank locks the folder later
        check_resume(place.run_dir, cfg.resume, place.config)
    check_rollout(composed)
    after: EvaluateTask = composed.task.evaluate_after
    clips = read_clips(composed, [composed.dataset.train_split, *after.splits])
    check_gold_labels(clips, after.splits)
    reward = build_reward(composed, clips)
    if composed.launches:
        return launch_of(composed)
    training = _training_clips(clips)
    num_examples = len(training.examples[composed.dataset.train_split])
    print(f"data: {num_examples:,} examples, {composed.stage.num_steps(num_examples):,} steps")
    if not composed.stage.samples:
        split = composed.dataset.train_split
        print(check_reasoning(training.examples[split], split, cfg.model.get("instruction")))
    check_before_loading(composed, clips.examples[composed.dataset.train_split])
    policy = load_policy(composed, clips.examples)
    saved = None if cfg.resume is None else resumed_checkpoint(place.run_dir, cfg.resume)
    origin = origin_of(policy, training.examples[clips.dataset.train_split])
    if saved is not None:
        check_origin(composed, origin)
    elif composed.base is not None:
        write_base(policy, composed.base)
    trained_from = composed.base
    if trained_from is None and cfg.model.path is not None:
        trained_from = find_checkpoint(cfg.model.path, allow_pickle=True)  # may be a hub id
    counts = apply(policy, composed.trainable, trained_from)
    engine = make(cfg.rollout)
    stage = build_stage(composed, policy, reward, engine)
    if saved is not None:
        policy = _resumed(composed, policy, saved)
    questions = (
        question for _, question, *_ in texts(training.examples[clips.dataset.train_split])
    )
    policy.trained_on = trained_on(clips.dataset.name, clips.dataset.labels, questions)
    cache = feature_cache(composed.feature_cache, clips, policy)
    return TrainInputs(
        place=place,
        clips=training,
        policy=policy,
        cache=cache,
        stage=stage,
        engine=engine,
        loop=composed.stage,
        make_optimizer=make(cfg.optimizer),
        make_trainer=make(cfg.trainer),
        loggers={name: check_installed(name, make(x)) for name, x in cfg.logger.items()},
        callbacks=[
            *(make(callback) for callback in cfg.callbacks.values()),
            *([] if reward is None else [Unrewarded(reward)]),
        ],
        resume=saved,
        origin=origin,
        counts=counts,
        evaluation=PolicyInputs(place, clips, after, policy, cache, engine)
        if after.splits
        else None,
    )


def _resumed(composed: Composed, policy: Policy, saved: Path) -> Policy:
    """Replace the weights that training started from by those of a checkpoint."""
    if policy.adapter_checkpoint is not None:
        put_onto(policy, policy.adapter_checkpoint.base, saved, LoadOptions(), None)
    else:
        policy = load_resumed(composed, saved)
    apply(policy, composed.trainable, saved)
    return policy


def _training_clips(clips: Clips) -> Clips:
    """Keep the training split, cut at ``dataset.max_train_examples``."""
    split, limit = clips.dataset.train_split, clips.dataset.max_train_examples
    examples = clips.examples[split]
    if limit > len(examples):
        raise UserError(
            f"dataset.max_train_examples={limit}: {split} has only {len(examples)} examples"
        )
    return replace(clips, examples={split: examples[:limit] if limit > 0 else examples})


def run(inputs: TrainInputs) -> None:
    """Train one stage; write checkpoints, metrics and completions to the run's folder."""
    loop, run_dir = inputs.loop, inputs.place.run_dir
    seed = inputs.place.config["seed"]
    resume = Resume(inputs.resume) if inputs.resume else None
    start = resume.step if resume else 0
    keep_freed_memory()
    data, steps = _data(inputs, start, seed)
    saves = Checkpoints(run_dir, loop, inputs.place.latest)
    own = [*([resume] if resume else []), CleanStop(), saves]
    loggers = inputs.loggers if distributed.is_first() else {}
    callbacks = [
        c for c in inputs.callbacks if distributed.is_first() or not isinstance(c, LOOK_ON)
    ]
    device = take_device(inputs.place.config["trainer"], distributed.local_rank())
    strategy = inputs.place.config["trainer"].get("strategy", "auto")
    Console().print(trainable_table(inputs.counts))
    with (
        parallel_of(strategy, device, no_sync=loop.no_sync) as parallel,
        # before the record is opened, so that options that Lightning refuses leave no run behind
        nullcontext(
            build_trainer(inputs.make_trainer, [*callbacks, *own], device, parallel)
        ) as trainer,
        recorded(inputs.place, device=str(trainer.strategy.root_device)) as record,
    ):
        if distributed.is_first():
            _go_back(inputs, start)
        record.update(origin=inputs.origin, trainable=[asdict(count) for count in inputs.counts])
        with tracking(loggers, record, start) as trackers:
            trainer.loggers = [*trackers]
            module = RLVRModule(
                inputs.policy.train(),
                inputs.stage,
                inputs.engine,
                inputs.make_optimizer,
                loop,
                record,
                parallel=parallel,
                on_features=keeper(inputs.cache),
                num_updates=steps * loop.updates_per_step,
                seed=seed,
            )
            if start < steps:
                alone = distributed.num_ranks() == 1
                with stopping.without_exit(), stopping.noted(alone=alone):
                    trainer.fit(module, datamodule=data)
            inputs.policy.eval()
            if start < steps and any(distributed.gather(stopping.asked())):
                raise Interrupted(
                    f"stopped at step {module.step} of {steps}; resume={run_dir} goes on"
                )
            if inputs.evaluation is not None:
                scores = score_splits(inputs.evaluation, record)
                if distributed.is_first():
                    checkpoint = follow(run_dir / CHECKPOINT).resolve()
                    name, step = checkpoint.name, module.step
                    write_card(checkpoint, inputs.policy, run_dir, step=step, path=name)
                for tracker in trackers:
                    tracker.log_scores(scores, step=steps)
    print(f"checkpoint: {run_dir / CHECKPOINT}")


def _go_back(inputs: TrainInputs, start: int) -> None:
    """Restore the run's folder to its state after step ``start``."""
    run_dir = inputs.place.run_dir
    for file in ("metrics.jsonl", "completions.jsonl"):
        keep_steps(run_dir / file, start)
    restore_link(run_dir, start)
    chosen = inputs.resume or step_folder(run_dir, start)
    if chosen.parent.name == CHECKPOINTS:
        clear_way(run_dir / CHECKPOINT, chosen)
        if chosen.is_dir():
            point_to(run_dir / CHECKPOINT, chosen)


def _data(inputs: TrainInputs, start: int, seed: int) -> tuple[TrainData, int]:
    """Make the training data from step ``start`` on, and count the steps of the whole run."""
    loop, dataset, processor = inputs.loop, inputs.clips.dataset, inputs.policy.processor
    examples = inputs.clips.examples[dataset.train_split]
    steps = loop.num_steps(len(examples))
    data = TrainData(
        processed_clips(inputs.clips, examples, processor, inputs.cache),
        collate(processor, inputs.cache, with_target=inputs.stage.with_target),
        StepSampler(
            num_examples=len(examples),
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
