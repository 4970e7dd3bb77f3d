"""From a composed config to typed parts: check everything that can be checked, then read, then
load.

The only caller of ``instantiate``. What a person tunes becomes its dataclass (and has its ranges
checked) before any file is opened; annotations are read before a model is loaded; gold answers are
scored before training.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra import compose
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from omni_rlvr.config import schema
from omni_rlvr.config.check import check_targets, check_trainer, differences
from omni_rlvr.data.feature_cache import FeatureCache, open_cache
from omni_rlvr.data.options import DatasetConfig
from omni_rlvr.models.fingerprint import tower_fingerprints
from omni_rlvr.models.policy import Policy
from omni_rlvr.parts import (
    CacheParts,
    Clips,
    EvaluateParts,
    Parts,
    PipelineParts,
    Place,
    PreviewParts,
    ReportParts,
    StartedParts,
    TrainParts,
)
from omni_rlvr.record import identity, read_json
from omni_rlvr.rewards.gold import check_gold
from omni_rlvr.stages.base import Stage
from omni_rlvr.stages.grpo import GrpoStage
from omni_rlvr.stages.options import GrpoConfig, LoopConfig
from omni_rlvr.stages.sft import SftStage
from omni_rlvr.types import Example, UserError, require

log = logging.getLogger(__name__)


def build(cfg: DictConfig, run_dir: Path, latest: Path | None) -> Parts:
    """Builds the parts of a task.

    Args:
        cfg: the composed config.
        run_dir: where the run writes.
        latest: the link to move when the run has something to offer, or None.

    Raises:
        UserError: anything about the config, the annotations or the checkpoint that is wrong.
    """
    start = start_of(cfg)
    if start is None:
        return _build(cfg, run_dir, latest)
    started, start_cfg, start_dir = start
    return StartedParts(
        Place(start_dir, None, check(start_cfg)[0]),
        lambda: _build(start_cfg, start_dir, None),
        lambda: _build(started, run_dir, latest),
    )


def start_of(cfg: DictConfig) -> tuple[DictConfig, DictConfig, Path] | None:
    """Composes the run whose checkpoint a run is to start from.

    Returns:
        The config with ``model.path`` set to that checkpoint, that run's config and its folder; or
        None: the run starts from the ``model.path`` it has.
    """
    start = check(cfg)[1]["task"].start_from if cfg.task.name == "train" else None
    if start is None or not start.overrides or start.num_examples == 0:
        return None
    limit = f"dataset.max_train_examples={start.num_examples}"
    start_cfg = compose_step([*start.overrides, *([limit] if start.num_examples > 0 else [])])
    config, _ = check(start_cfg)
    folder = Path(config["paths"]["output_root"]) / config["name"] / "shared" / identity(config)
    started = copy.deepcopy(cfg)
    started.model.path = str(folder / "checkpoint")
    return started, start_cfg, folder


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Resolves the config of a run as it will stand in its run.json."""
    start = start_of(cfg)
    return check(cfg if start is None else start[0])[0]


def _build(cfg: DictConfig, run_dir: Path, latest: Path | None) -> Parts:
    config, typed = check(cfg)
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    task, dataset = typed["task"], typed["dataset"]
    place = Place(run_dir, latest, config)
    if isinstance(task, schema.ReportTask):
        return ReportParts(place, task, _report_runs(config["runs"]))
    if isinstance(task, schema.PipelineTask):
        return PipelineParts(place, dataset.labels, task)
    if isinstance(task, schema.TrainTask) and cfg.resume is not None:
        _check_resume(run_dir, cfg.resume, config)
    examples = {name: _read(dataset, name) for name in _splits(task, dataset)}
    clips = Clips(dataset, typed["modality"], examples)
    if isinstance(task, schema.PreviewTask):
        return PreviewParts(place, clips, task)
    policy = make(cfg.model)
    _check_texts(policy, examples)
    cache = _feature_cache(typed["feature_cache"], clips, policy)
    if isinstance(task, schema.EvaluateTask):
        return EvaluateParts(place, clips, task, policy, cache)
    if isinstance(task, schema.CacheTask):
        if cache is None:
            raise UserError("feature_cache.enabled=false: task=cache has nothing to fill")
        return CacheParts(place, clips, task, policy, cache)
    return _train_parts(cfg, clips, typed, policy, cache, place)


def _feature_cache(config: Any, clips: Clips, policy: Policy) -> FeatureCache | None:
    """Opens the cache, unless it is off or a tower in use trains."""
    use = {"video": clips.modality.video, "audio": clips.modality.audio}
    trained = [
        name
        for name, tower in policy.towers().items()
        if use[name] and any(weight.requires_grad for weight in tower.parameters())
    ]
    if config.enabled and trained:
        log.warning(
            "feature cache: off, since the %s tower trains; clips are encoded at every step",
            " and the ".join(trained),
        )
    if not config.enabled or trained:
        return None
    return open_cache(config, tower_fingerprints(policy), use)


def compose_step(overrides: list[str]) -> DictConfig:
    """Composes the config of one step of a pipeline."""
    return compose("config", overrides=overrides)


def make(config: Any, **overrides: Any) -> Any:
    """Builds what a ``_target_`` names.

    Raises:
        UserError: what was built refused its arguments with one.
    """
    try:
        return instantiate(config, **overrides)
    except InstantiationException as error:
        raise _as_user_error(error) from error


def check(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Resolves a config and checks types, ranges and targets.

    Returns:
        The resolved config as plain values, and the typed groups (task, dataset, modality, stage,
        feature_cache).
    """
    try:
        OmegaConf.to_container(cfg, throw_on_missing=True)  # names a gap, not what refers to it
        config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        typed: dict[str, Any] = {
            key: OmegaConf.to_object(cfg[key])
            for key in ("task", "dataset", "modality", "stage", "feature_cache")
        }
    except OmegaConfBaseException as error:
        raise _as_user_error(error) from error
    require(0 <= config["seed"] < 2**32, "seed", config["seed"], "from 0 to 2**32 - 1")
    check_trainer(config["trainer"])
    if (config["runs"] is not None) != isinstance(typed["task"], schema.ReportTask):
        raise UserError(
            f"runs={config['runs']}: task=report needs runs=FOLDER, a glob, or '[a,b]'; "
            "no other task takes it"
        )
    if isinstance(typed["task"], schema.EvaluateTask):
        require(bool(typed["task"].splits), "task.splits", [], "at least one split")
    if config["resume"] is not None and not isinstance(typed["task"], schema.TrainTask):
        raise UserError(f"resume={config['resume']}: only task=train can be resumed")
    for key in ("dataset", "model", "reward", "optimizer", "trainer", "logger", "callbacks"):
        check_targets(config[key], key)
    return config, typed


def _as_user_error(error: Exception) -> UserError:
    """Finds the UserError that a library wrapped, or words the library's own as one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        cause = cause.__cause__
    if isinstance(error, MissingMandatoryValue):
        return UserError(f"{error.full_key} must be given, e.g. {error.full_key}=VALUE")
    return UserError(f"config: {' '.join(str(error).split())}")


def _report_runs(runs: Any) -> list[str]:
    texts = runs if isinstance(runs, list) else [runs]
    return [part for text in texts for part in str(text).split(",") if part]


def _splits(task: Any, dataset: DatasetConfig) -> list[str]:
    if isinstance(task, schema.TrainTask):
        return list(dict.fromkeys([dataset.train_split, *task.evaluate_after.splits]))
    if isinstance(task, schema.PreviewTask):
        return [task.split]
    return list(task.splits) or list(dataset.splits)


def _read(dataset: DatasetConfig, split: str) -> list[Example]:
    if split not in dataset.splits:
        raise UserError(
            f"dataset={dataset.name} has no split {split!r}; it has {', '.join(dataset.splits)}"
        )
    if split in dataset.annotations and not dataset.annotations[split]:
        key = f"dataset.annotations.{split}"
        raise UserError(f"{key} must be given, e.g. {key}=FILE")
    return make(dataset.splits[split]).read()


def _check_texts(policy: Policy, examples: dict[str, list[Example]]) -> None:
    for example in (e for rows in examples.values() for e in rows):
        policy.processor.check_text(example.question, example.source)
        policy.processor.check_text(example.target, example.source)


def _train_parts(
    cfg: DictConfig,
    clips: Clips,
    typed: dict[str, Any],
    policy: Policy,
    cache: FeatureCache | None,
    place: Place,
) -> TrainParts:
    loop: LoopConfig = typed["stage"]
    after: schema.EvaluateTask = typed["task"].evaluate_after
    stage: Stage = SftStage()
    if isinstance(loop, GrpoConfig):
        reward = make(cfg.reward)
        check_gold(reward, clips.examples[clips.dataset.train_split])
        stage = GrpoStage(loop, reward, policy.frozen_copy() if loop.beta > 0 else None)
    if cfg.resume is not None:
        policy = make(cfg.model, path=str(place.run_dir / "checkpoint"), instruction=None)
    return TrainParts(
        place=place,
        clips=_training_clips(clips),
        policy=policy,
        cache=cache,
        stage=stage,
        loop=loop,
        make_optimizer=make(cfg.optimizer),
        make_trainer=make(cfg.trainer),
        loggers=[make(x)(save_dir=str(place.run_dir)) for x in cfg.logger.values()],
        callbacks=[make(callback) for callback in cfg.callbacks.values()],
        resume=cfg.resume is not None,
        evaluation=EvaluateParts(place, clips, after, policy, cache) if after.splits else None,
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


def _check_resume(run_dir: Path, resume: str, config: dict[str, Any]) -> None:
    """Refuses to go on without a checkpoint, or with another config than the run began with."""
    if not (run_dir / "checkpoint" / "trainer_state.pt").exists():
        raise UserError(
            f"resume={resume}: there is no run of '{config['name']}' with a checkpoint to go on "
            "from; start one without resume"
        )
    before = read_json(run_dir / "run.json")["config"]
    changed = differences({**before, "resume": None}, {**config, "resume": None}, "")
    if changed:
        raise UserError(
            f"resume={resume}: the config differs from the run's in {'; '.join(changed[:5])}; "
            "give the same overrides, or start a new run with model.path"
        )
