"""From a composed config to typed parts: check everything that can be checked, then read, then load.

The only caller of ``instantiate``. What a person tunes becomes its dataclass (and has its ranges checked) before any
file is opened; annotations are read before a model is loaded; gold answers are scored before training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra import compose
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.optim import Optimizer

from omni_rlvr.config import schema
from omni_rlvr.config.check import check_targets
from omni_rlvr.models.policy import Policy
from omni_rlvr.record import read_json
from omni_rlvr.rewards.gold import check_gold
from omni_rlvr.stages.base import Stage
from omni_rlvr.stages.grpo import GrpoStage
from omni_rlvr.stages.sft import SftStage
from omni_rlvr.types import Example, UserError


@dataclass(frozen=True)
class Parts:
    """All that a task needs; what it does not need is None or empty."""

    task: Any
    run_dir: Path
    latest: Path | None
    """The link that a finished run moves to itself; None in a sweep or a pipeline."""
    config: dict[str, Any]
    """The resolved config, as it goes into run.json."""
    dataset: schema.DatasetConfig
    modality: schema.ModalityConfig
    examples: dict[str, list[Example]]
    resume: bool
    policy: Policy | None = None
    stage: Stage | None = None
    loop: schema.LoopConfig | None = None
    make_optimizer: Callable[..., Optimizer] | None = None
    make_trainer: Callable[..., pl.Trainer] | None = None
    loggers: Sequence[Any] = ()
    callbacks: Sequence[pl.Callback] = ()


def build(cfg: DictConfig, run_dir: Path, latest: Path | None) -> Parts:
    """Builds the parts of a task.

    Args:
        cfg: the composed config.
        run_dir: where the run writes.
        latest: the link to move when the run has something to offer, or None.

    Raises:
        UserError: anything about the config, the annotations or the checkpoint that is wrong.
    """
    config, typed = check(cfg)
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    task, dataset = typed["task"], typed["dataset"]
    parts: dict[str, Any] = {
        "task": task,
        "run_dir": run_dir,
        "latest": latest,
        "config": config,
        "dataset": dataset,
        "modality": typed["modality"],
        "resume": cfg.resume is not None,
        "examples": {name: _read(dataset, name) for name in _splits(task, dataset)},
    }
    if isinstance(task, schema.TrainTask):
        if cfg.resume is not None:
            _check_resume(run_dir, cfg.resume, config)
        parts |= _training_parts(cfg, typed["stage"], run_dir, parts["examples"][dataset.train_split])
    elif isinstance(task, schema.EvaluateTask):
        parts["policy"] = instantiate(cfg.model)
    return Parts(**parts)


def compose_step(overrides: list[str]) -> DictConfig:
    """Composes the config of one step of a pipeline."""
    return compose("config", overrides=overrides)


def check(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Resolves a config and checks types, ranges and targets.

    Returns:
        The resolved config as plain values, and the typed groups (task, dataset, modality, stage).
    """
    try:
        config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        typed = {key: OmegaConf.to_object(cfg[key]) for key in ("task", "dataset", "modality", "stage")}
    except OmegaConfBaseException as error:
        raise _as_user_error(error) from error
    assert isinstance(config, dict)
    for key in ("dataset", "model", "reward", "optimizer", "trainer", "logger", "callbacks"):
        check_targets(config[key], key)
    return config, typed


def _as_user_error(error: Exception) -> UserError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        cause = cause.__cause__
    return UserError(f"config: {str(error).splitlines()[0]}")


def _splits(task: Any, dataset: schema.DatasetConfig) -> list[str]:
    if isinstance(task, schema.TrainTask):
        return [dataset.train_split]
    if isinstance(task, schema.EvaluateTask):
        return task.splits
    return [task.split] if isinstance(task, schema.PreviewTask) else []


def _read(dataset: schema.DatasetConfig, split: str) -> list[Example]:
    if split not in dataset.splits:
        raise UserError(f"dataset={dataset.name} has no split {split!r}; it has {', '.join(dataset.splits)}")
    return instantiate(dataset.splits[split]).read()


def _training_parts(
    cfg: DictConfig, loop: schema.LoopConfig, run_dir: Path, examples: list[Example]
) -> dict[str, Any]:
    policy = instantiate(cfg.model)
    if isinstance(loop, schema.GrpoConfig):
        reward = instantiate(cfg.reward)
        check_gold(reward, examples)
        stage: Stage = GrpoStage(loop, reward, policy.frozen_copy() if loop.beta > 0 else None)
    else:
        stage = SftStage()
    if cfg.resume is not None:
        policy = instantiate(cfg.model, path=str(run_dir / "checkpoint"), instruction=None)
    return {
        "policy": policy,
        "stage": stage,
        "loop": loop,
        "make_optimizer": instantiate(cfg.optimizer),
        "make_trainer": instantiate(cfg.trainer),
        "loggers": [instantiate(logger)(save_dir=str(run_dir)) for logger in cfg.logger.values()],
        "callbacks": [instantiate(callback) for callback in cfg.callbacks.values()],
    }


def _check_resume(run_dir: Path, resume: str, config: dict[str, Any]) -> None:
    """Refuses to go on without a checkpoint, or with another config than the run began with."""
    if not (run_dir / "checkpoint" / "trainer_state.pt").exists():
        raise UserError(f"resume={resume}: there is no run of '{config['name']}' with a checkpoint to go on from")
    before = read_json(run_dir / "run.json")["config"]
    changed = _differences({**before, "resume": None}, {**config, "resume": None}, "")
    if changed:
        raise UserError(
            f"resume={resume}: the config differs from the run's in {'; '.join(changed[:5])}; "
            "give the same overrides, or start a new run with model.path"
        )


def _differences(before: Any, now: Any, key: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted({*before, *now})
        return [d for n in names for d in _differences(before.get(n), now.get(n), f"{key}.{n}".lstrip("."))]
    return [] if before == now else [f"{key} ({before!r} then, {now!r} now)"]
