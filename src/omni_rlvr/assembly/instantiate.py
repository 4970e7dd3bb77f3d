"""Check a composed config and build the objects that its ``_target_`` entries name.

Only this file calls Hydra's ``instantiate``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from hydra import compose
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from omni_rlvr.assembly.composing.checks import (
    check_engine,
    check_finite,
    check_named,
    check_optimizer,
    check_targets,
    check_trainer,
)
from omni_rlvr.assembly.composing.keys import TYPED, check_keys
from omni_rlvr.assembly.composing.names import check_names
from omni_rlvr.assembly.composing.own_readers import fit_own_readers
from omni_rlvr.assembly.composing.paths import settle_paths
from omni_rlvr.assembly.composing.suggestions import hydras_words
from omni_rlvr.assembly.composing.wording import as_user_error
from omni_rlvr.config.tasks import EvaluateTask, PredictTask, ReportTask, TrainTask
from omni_rlvr.types import UserError, require


def compose_step(overrides: list[str]) -> DictConfig:
    """Compose the config of one step of a pipeline."""
    return compose("config", overrides=overrides)


def check_step(overrides: list[str], key: str) -> dict[str, Any]:
    """Compose and check the config of one step of a pipeline; return it resolved.

    Args:
        overrides: The overrides of the step.
        key: The key of the step in the pipeline's config, for messages.

    Raises:
        UserError: The step cannot be composed, or is wrong.
    """
    try:
        return check(compose_step(overrides))[0]
    except (HydraException, OmegaConfBaseException, UserError, ValueError) as error:
        text = " ".join(f"{error} {error.__cause__ or ''}".split())
        raise UserError(f"{key}: {hydras_words(text, overrides)}") from error


def make(config: Any, **overrides: Any) -> Any:
    """Build the object that a ``_target_`` names.

    Raises:
        UserError: The object refused its arguments with one.
    """
    try:
        return instantiate(config, **overrides)
    except InstantiationException as error:
        raise as_user_error(error) from error


def check(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Resolve a config and check types, ranges and targets.

    This changes ``cfg`` itself: paths are expanded (``composing.paths``) and arguments are left out
    that a user's own reader does not take (``composing.own_readers``).

    Returns:
        The resolved config as plain values, and the typed groups (task, dataset, modality, stage,
        feature_cache, trainable).
    """
    settle_paths(cfg)
    fit_own_readers(cfg)
    try:
        OmegaConf.to_container(
            cfg, throw_on_missing=True
        )  # names the missing key itself, not a key that refers to it
        config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        typed: dict[str, Any] = {key: OmegaConf.to_object(cfg[key]) for key in TYPED}
        typed["trainable"] = OmegaConf.to_object(cfg.model.trainable)
    except OmegaConfBaseException as error:
        raise as_user_error(error) from error
    check_keys(config, typed)
    require(0 <= config["seed"] < 2**32, "seed", config["seed"], "from 0 to 2**32 - 1")
    check_finite(config, "")
    check_optimizer(config["optimizer"])
    check_trainer(config["trainer"])
    task = typed["task"]
    if (config["runs"] is not None) != isinstance(task, ReportTask):
        raise UserError(
            f"runs={config['runs']}: task=report needs runs=FOLDER, a glob, or '[a,b]'; "
            "no other task takes it"
        )
    for key, kind, told in (
        ("html", ReportTask, "only task=report makes a page"),
        ("resume", TrainTask, "only task=train can be resumed"),
        ("video", PredictTask, "only task=predict reads it"),
        ("audio", PredictTask, "only task=predict reads it"),
    ):
        if config[key] is not None and not isinstance(task, kind):
            raise UserError(f"{key}={config[key]}: {told}")
    if isinstance(task, EvaluateTask):
        require(bool(task.splits), "task.splits", [], "at least one split")
    for key in ("reward", "rollout", "lexicon", "optimizer", "trainer", "model"):
        check_named(config[key], key)
    for key in ("logger", "callbacks"):
        for name, value in (config[key] or {}).items():
            check_named(value, f"{key}.{name}")
    check_names(config)
    groups = ("dataset", "reward", "rollout", "lexicon", "optimizer", "trainer", "logger")
    for key in (*groups, "callbacks"):
        check_targets(config[key], key)
    check_engine(config["rollout"])
    check_targets(loader_of(config["model"]), "model")
    return config, typed


def resolve(cfg: DictConfig) -> DictConfig:
    """Return a copy with all references resolved, e.g. to the latest run of an experiment."""
    cfg = copy.deepcopy(cfg)
    OmegaConf.resolve(cfg)
    return cfg


def loader_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """Select the entries of the group ``model`` that its ``_target_`` takes as arguments."""
    return {key: value for key, value in model.items() if key not in ("trainable", "base")}
