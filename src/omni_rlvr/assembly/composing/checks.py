"""Checks of a resolved config, before anything is built.

Every ``_target_`` is bound to the signature of what it names: an argument that it does not take, or
one that is missing, is found here and named by its key.
"""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omni_rlvr.config.tasks import PlanTask, TrainTask
from omni_rlvr.config.trainable import TrainableConfig
from omni_rlvr.types import UserError, require

STRATEGIES = ("auto", "ddp", "fsdp2")
"""Values of ``trainer.strategy``; auto is ddp where there are several processes."""
FSDP2_NEEDS = "2.13"
"""The first PyTorch whose ``fully_shard`` reduces weights that a rank does not use."""
_HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def check_targets(config: object, key: str) -> None:
    """Check all targets in a resolved config, which holds plain dicts and lists.

    Args:
        config: The part of the config to check.
        key: Its key in the whole config, for messages.

    Raises:
        UserError: A target cannot be imported, or its arguments do not fit.
    """
    if isinstance(config, Mapping):
        for name, value in config.items():
            check_targets(value, f"{key}.{name}")
        if "_target_" in config:
            _check_one(config, key)
    elif isinstance(config, list):
        for i, value in enumerate(config):
            check_targets(value, f"{key}[{i}]")


def check_named(config: object, key: str) -> None:
    """Refuse a group, or an entry of one, that has no ``_target_``."""
    if not isinstance(config, Mapping) or not config.get("_target_"):
        raise UserError(
            f"{key}={config!r} does not say what is to be built: give {key}._target_=MODULE.NAME, "
            "or one of the options that omni-rlvr --help shows"
        )


def check_finite(config: object, key: str) -> None:
    """Refuse NaN and infinity anywhere in a resolved config: no option means either.

    Raises:
        UserError: There is one; the message names its key.
    """
    if isinstance(config, Mapping):
        for name, value in config.items():
            check_finite(value, f"{key}.{name}".lstrip("."))
    elif isinstance(config, list):
        for i, value in enumerate(config):
            check_finite(value, f"{key}[{i}]")
    elif isinstance(config, float):
        require(math.isfinite(config), key, config, "a finite number")


def check_engine(rollout: Mapping[str, Any]) -> None:
    """Refuse a rollout that is no engine, before a model is loaded.

    In earlier versions an engine was a function with ``_partial_: true``.
    """
    engine = locate(rollout["_target_"], "rollout")
    if not (hasattr(engine, "sample") and hasattr(engine, "sync")):
        raise UserError(
            f"rollout._target_={rollout['_target_']} is no engine: name a class with the methods "
            "sample and sync (rollout/engine.py says what they take), without _partial_"
        )


def check_optimizer(optimizer: Mapping[str, Any]) -> None:
    """Refuse a learning rate of zero or less."""
    if isinstance(lr := optimizer.get("lr"), int | float):
        wanted = "greater than 0; task=evaluate measures a model without training it"
        require(lr > 0, "optimizer.lr", lr, wanted)


def check_trainer(trainer: dict[str, Any], *, no_sync: bool) -> None:
    """Refuse flags of Lightning's trainer that have no effect, or do harm, in this loop.

    The flags that this loop reads itself must be given, because Lightning's defaults do not apply.

    Args:
        trainer: The config group.
        no_sync: ``stage.no_sync``, which only fsdp2 uses.
    """
    for flag, example in (("accelerator", "auto"), ("devices", "1")):
        if flag not in trainer:
            raise UserError(f"trainer.{flag} must be given, e.g. trainer.{flag}={example}")
    accelerator = trainer["accelerator"]
    named = isinstance(accelerator, str) and accelerator
    require(bool(named), "trainer.accelerator", accelerator, "auto, cpu, cuda or mps")
    ours = {
        "max_epochs": "stage.num_train_epochs",
        "max_steps": "stage.max_steps",
        "accumulate_grad_batches": "stage.micro_batch_size",
        "gradient_clip_val": "stage.max_grad_norm",
    }
    for flag, instead in ours.items():
        if flag in trainer:
            raise UserError(f"trainer.{flag}={trainer[flag]!r} has no effect here; use {instead}")
    strategy = trainer.get("strategy", "auto")
    _check_strategy(strategy)
    if no_sync and strategy != "fsdp2":
        raise UserError(
            f"stage.no_sync=true is for trainer.strategy=fsdp2, and this is {strategy}, which "
            "sends gradients once per update without it; leave it out"
        )
    allowed = ("32-true", "bf16-mixed")
    if "precision" in trainer:
        precision = trainer["precision"]
        require(precision in allowed, "trainer.precision", precision, f"one of {allowed}")


def check_quantized(config: Mapping[str, Any], task: object, trainable: TrainableConfig) -> None:
    """Refuse to train weights of 4 bits, or to shard them.

    Args:
        config: The resolved config.
        task: The options of the task.
        trainable: The parts that would be trained.
    """
    how = (config["model"].get("options") or {}).get("quantize")
    if how is None or not isinstance(task, TrainTask | PlanTask):
        return
    key = f"model.options.quantize={how}"
    if trainable.language_model:
        raise UserError(
            f"{key}: weights of 4 bits are not trained themselves; train adapters on them: "
            "model/trainable=lora"
        )
    if config["trainer"].get("strategy") == "fsdp2":
        raise UserError(
            f"{key}: trainer.strategy=fsdp2 does not shard weights of 4 bits; use "
            "trainer.strategy=ddp, where each device holds all of them"
        )


def _check_strategy(strategy: object) -> None:
    """Refuse a strategy that this loop, or this PyTorch, does not have."""
    if strategy not in STRATEGIES and str(strategy).startswith(("fsdp", "deepspeed", "model_p")):
        raise UserError(
            f"trainer.strategy={strategy!r}: use fsdp2, which shards weights, gradients and "
            "optimizer state over the devices by PyTorch's fully_shard"
        )
    require(strategy in STRATEGIES, "trainer.strategy", strategy, f"one of {STRATEGIES}")
    if strategy == "fsdp2":
        import torch  # slow, and nothing else here needs it

        if torch.__version__ < FSDP2_NEEDS:
            raise UserError(
                f"trainer.strategy=fsdp2 needs PyTorch {FSDP2_NEEDS} or newer, and this is "
                f"{torch.__version__}; update it, or use trainer.strategy=ddp"
            )


def locate(path: str, key: str) -> object:
    """Import ``package.module.name``; the working folder is searched last."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    require(isinstance(path, str), f"{key}._target_", path, "MODULE.NAME of what is to be built")
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{key}._target_={path} cannot be imported: {error}") from error


def _check_one(config: Mapping, key: str) -> None:
    target = locate(config["_target_"], key)
    if not callable(target):
        raise UserError(f"{key}._target_={config['_target_']} is not callable")
    arguments = {name: value for name, value in config.items() if name not in _HYDRA_KEYS}
    try:
        signature = inspect.signature(target)
        if config.get("_partial_"):
            signature.bind_partial(**arguments)
        else:
            signature.bind(**arguments)
    except TypeError as error:
        wanted = ", ".join(inspect.signature(target).parameters)
        hint = "" if inspect.isclass(target) else "; _partial_: true passes the function itself"
        raise UserError(
            f"{key}: {config['_target_']} does not take these arguments: {error}; it takes "
            f"{wanted}{hint}"
        ) from error
