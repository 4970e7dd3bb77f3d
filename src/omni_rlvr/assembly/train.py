"""The parts of a training run: what trains, the stage with reward and reference, the trainer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from omni_rlvr.assembly.instantiate import loader_of, make
from omni_rlvr.assembly.origin import check_origin, origin_of
from omni_rlvr.assembly.parts import Clips, EvaluateParts, Place, TrainParts
from omni_rlvr.assembly.policies import base_to_write, feature_cache, write_base
from omni_rlvr.assembly.resume import resumed_checkpoint
from omni_rlvr.config import root
from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.config.stage import GrpoConfig, SftConfig
from omni_rlvr.data.annotations.example_table import distinct
from omni_rlvr.models.adapters.trainable import apply
from omni_rlvr.models.loading.hub import find_checkpoint
from omni_rlvr.models.loading.load import put_onto
from omni_rlvr.models.policy import Policy
from omni_rlvr.rewards.gold import check_gold
from omni_rlvr.rewards.mixture import Mixture
from omni_rlvr.stages.base import Stage
from omni_rlvr.stages.grpo import GrpoStage
from omni_rlvr.stages.sft import SftStage
from omni_rlvr.training.callbacks import Unrewarded
from omni_rlvr.training.loggers import check_installed
from omni_rlvr.types import UserError


def build_reward(cfg: DictConfig, clips: Clips) -> Mixture:
    """Builds the reward and checks that it pays for the gold answers."""
    reward = make(cfg.reward)
    check_gold(reward, distinct(clips.examples[clips.dataset.train_split]))
    return reward


def train_parts(
    cfg: DictConfig,
    place: Place,
    clips: Clips,
    typed: dict[str, Any],
    policy: Policy,
    reward: Mixture | None,
) -> TrainParts:
    """Builds all that training a stage needs; ``reward`` is GRPO's."""
    saved = None if cfg.resume is None else resumed_checkpoint(place.run_dir, cfg.resume)
    engine = make(cfg.rollout)
    loop, trainable = typed["stage"], typed["trainable"]
    training = _training_clips(clips)
    origin = origin_of(policy, training.examples[clips.dataset.train_split])
    if saved is not None:
        check_origin(place.run_dir, origin, place.config)
    base = base_to_write(cfg, typed, place.run_dir)
    if base is not None and saved is None:
        write_base(policy, base)
    counts = apply(policy, trainable, base or _folder(cfg.model.path))
    if isinstance(loop, SftConfig):
        stage: Stage = SftStage(loop)
    else:
        assert isinstance(loop, GrpoConfig)
        assert reward is not None
        reference = policy.frozen_copy() if loop.beta > 0 else None
        stage = GrpoStage(loop, reward, reference, engine)
    if saved is not None and policy.adapter_checkpoint is not None:
        put_onto(policy, policy.adapter_checkpoint.base, saved, LoadOptions(), None)
        apply(policy, trainable, saved)
    elif saved is not None:
        policy = make(loader_of(cfg.model), path=str(saved), instruction=None)
        apply(policy, trainable, saved)
    after: root.EvaluateTask = typed["task"].evaluate_after
    cache = feature_cache(typed["feature_cache"], clips, policy)
    return TrainParts(
        place=place,
        clips=training,
        policy=policy,
        cache=cache,
        stage=stage,
        engine=engine,
        loop=loop,
        make_optimizer=make(cfg.optimizer),
        make_trainer=make(cfg.trainer),
        loggers={name: check_installed(name, make(x)) for name, x in cfg.logger.items()},
        callbacks=[
            *(make(callback) for callback in cfg.callbacks.values()),
            *([Unrewarded(reward)] if isinstance(reward, Mixture) else []),
        ],
        resume=saved,
        origin=origin,
        counts=counts,
        evaluation=EvaluateParts(place, clips, after, policy, cache, engine)
        if after.splits
        else None,
    )


def _training_clips(clips: Clips) -> Clips:
    """Keeps the training split, cut at ``dataset.max_train_examples``."""
    split, limit = clips.dataset.train_split, clips.dataset.max_train_examples
    examples = clips.examples[split]
    if limit > len(examples):
        raise UserError(
            f"dataset.max_train_examples={limit}: {split} has only {len(examples)} examples"
        )
    return replace(clips, examples={split: examples[:limit] if limit > 0 else examples})


def _folder(path: str | None) -> Path | None:
    """Where the checkpoint that training starts from is, a hub's too; None if parts were joined."""
    return None if path is None else find_checkpoint(path, allow_pickle=True)
