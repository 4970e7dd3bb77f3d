"""Check a composed config and build the objects that its ``_target_`` entries name.

Only this file calls Hydra's ``instantiate``.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from hydra import compose
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from omni_rlvr.assembly.composing.checks import (
    check_engine,
    check_finite,
    check_named,
    check_optimizer,
    check_quantized,
    check_targets,
    check_trainer,
    locate,
)
from omni_rlvr.assembly.composing.keys import TYPED, check_keys
from omni_rlvr.assembly.composing.names import check_names
from omni_rlvr.assembly.composing.paths import settle_paths
from omni_rlvr.assembly.composing.register import OWN_KEYS, SCHEMAS
from omni_rlvr.assembly.composing.suggestions import reworded_message
from omni_rlvr.assembly.composing.wording import as_user_error
from omni_rlvr.config.tasks import EvaluateTask
from omni_rlvr.types import UserError, require

OFFERED = ("form", "annotations", "root", "labels", "seed")
"""The arguments that conf/dataset/r1_omni, ms_swift and messages pass to their reader."""


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
        raise UserError(f"{key}: {reworded_message(text, overrides)}") from error


def make(config: Any, **overrides: Any) -> Any:
    """Build the object that a ``_target_`` names.

    Raises:
        UserError: The object cannot be built; a UserError of its constructor is raised as it is.
    """
    try:
        return instantiate(config, **overrides)
    except InstantiationException as error:
        raise as_user_error(error) from error


def check(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Resolve a config and check types, ranges and targets; see ``check_values``.

    Targets are imported, and torch with them.
    """
    config, typed = check_values(cfg)
    groups = ("dataset", "reward", "rollout", "lexicon", "optimizer", "trainer", "logger")
    for key in (*groups, "callbacks"):
        check_targets(config[key], key)
    check_engine(config["rollout"])
    check_targets(loader_of(config["model"]), "model")
    return config, typed


def check_values(cfg: DictConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Resolve a config and check types, ranges and names, which needs no slow import.

    This changes ``cfg`` itself: paths are expanded (``composing.paths``), and arguments that a
    user's own reader does not take are removed (``fit_own_readers``).

    Returns:
        The resolved config as plain values, and the typed groups (task, dataset, modality, stage,
        feature_cache, trainable).
    """
    settle_paths(cfg)
    fit_own_readers(cfg)
    try:
        # before resolving, so that the error names the missing key, not one that refers to it
        OmegaConf.to_container(cfg, throw_on_missing=True)
        config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        typed: dict[str, Any] = {key: OmegaConf.to_object(cfg[key]) for key in TYPED}
        typed["trainable"] = OmegaConf.to_object(cfg.model.trainable)
    except OmegaConfBaseException as error:
        raise as_user_error(error) from error
    check_keys(config, typed)
    require(0 <= config["seed"] < 2**32, "seed", config["seed"], "from 0 to 2**32 - 1")
    check_finite(config, "")
    check_optimizer(config["optimizer"])
    check_trainer(config["trainer"], no_sync=typed["stage"].no_sync)
    task = typed["task"]
    check_quantized(config, task, typed["trainable"])
    for key, name in OWN_KEYS.items():
        if config[key] is not None and type(task) is not SCHEMAS["task"][name]:
            raise UserError(f"{key}={config[key]}: only task={name} takes it")
    if isinstance(task, EvaluateTask):
        require(bool(task.splits), "task.splits", [], "at least one split")
    for key in ("reward", "rollout", "lexicon", "optimizer", "trainer", "model"):
        check_named(config[key], key)
    for key in ("logger", "callbacks"):
        for name, value in (config[key] or {}).items():
            check_named(value, f"{key}.{name}")
    check_names(config)
    return config, typed


def fit_own_readers(cfg: DictConfig) -> None:
    """Remove the arguments that a user's own reader does not take from the splits, in place.

    A user may name a reader in place of ours: ``dataset.splits.train._target_=mine.Reader``. The
    file of the data set gives the arguments of our reader. A user's reader gets those of them that
    it has parameters for; a root or annotation file that it does not take need not be given.

    Raises:
        UserError: The reader cannot be imported.
    """
    splits: Any = OmegaConf.to_container(cfg.dataset.splits, resolve=False)
    own = [
        split
        for split, reader in splits.items()
        if isinstance(reader, Mapping)
        and isinstance(reader.get("_target_"), str)
        and not reader["_target_"].startswith("omni_rlvr.")
    ]
    for split in own:
        target = locate(splits[split]["_target_"], f"dataset.splits.{split}")
        if not callable(target):
            continue  # ``check_targets`` reports it
        takes = inspect.signature(target).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes):
            continue
        unknown = {*OFFERED} - {parameter.name for parameter in takes}
        with open_dict(cfg):
            for name in unknown & splits[split].keys():
                del cfg.dataset.splits[split][name]
                del splits[split][name]
    if own and OmegaConf.is_missing(cfg.dataset, "root"):
        files = cfg.dataset.annotations
        if not any("root" in reader and files.get(name, "?") for name, reader in splits.items()):
            cfg.dataset.root = "."


def resolve(cfg: DictConfig) -> DictConfig:
    """Return a copy with all references resolved, e.g. to the latest run of an experiment."""
    cfg = copy.deepcopy(cfg)
    OmegaConf.resolve(cfg)
    return cfg


def loader_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """Select the entries of the group ``model`` that its ``_target_`` takes as arguments."""
    return {key: value for key, value in model.items() if key not in ("trainable", "base")}
