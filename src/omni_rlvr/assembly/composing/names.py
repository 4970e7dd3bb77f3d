"""Check the names that become folders or parts of metrics, before anything is written."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from omni_rlvr.record import identity
from omni_rlvr.types import UserError

MAX_BYTES = 100
"""Largest number of bytes of a name: file systems allow 255, and a run appends to some names."""
RESERVED = (
    "checkpoint", "checkpoints", "completions", "evaluate", "latest", "metrics", "mlflow",
    "predictions", "run", "shared", "sweep", "tensorboard", "wandb",
)  # fmt: skip
"""Names of files and folders that a run writes itself into its folder."""
NOT_IN_A_NAME = ("sweep", "experiment", "debug", "name", "paths", "hydra", "logger", "callbacks")
LONGEST_NAME = 80


def check_names(config: Mapping[str, Any]) -> None:
    """Check every name in a resolved config that becomes a folder or a part of a metric's name.

    Raises:
        UserError: A name is not allowed; the message names its key.
    """
    check_run_name(config["name"])
    check_name(config["dataset"]["name"], "dataset.name")
    _check_all(config["dataset"]["splits"], "dataset.splits", RESERVED)
    for group in ("terms", "weights"):
        _check_all(config["reward"].get(group) or (), f"reward.{group}", ())
    task = config["task"]
    if task["name"] == "pipeline":
        for steps in ("stages", "evaluate", "modality"):
            _check_all(task[steps], f"task.{steps}", RESERVED)


def check_run_name(name: str) -> None:
    """Check the name of an experiment, in which ``/`` separates nested folders."""
    for part in name.split("/"):
        check_name(part, "name", name)


def check_name(name: str, key: str, whole: str | None = None) -> None:
    """Check one name.

    Args:
        name: The name of a folder.
        key: Its key in the config.
        whole: What the user gave, if ``name`` is a part of it.
    """
    wrong = None
    if not name.strip():
        wrong = "is empty"
    elif name.startswith("."):
        wrong = "begins with a dot"
    elif "/" in name or "\\" in name:
        wrong = "holds a slash"
    elif name != name.strip():
        wrong = "has a space at an end"
    elif any(unicodedata.category(sign).startswith("C") for sign in name):
        wrong = "holds a control character"
    elif len(name.encode()) > MAX_BYTES:
        wrong = f"is longer than {MAX_BYTES} bytes"
    if wrong is not None:
        given = repr(name if whole is None else whole)
        raise UserError(f"{key}: the name {given} {wrong}; it becomes a folder: take another name")


def _check_all(names: Iterable[str], key: str, reserved: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        check_name(str(name), key)
        folded = unicodedata.normalize("NFC", str(name)).casefold()
        if folded in reserved:
            raise UserError(
                f"{key}: a run writes a file or folder {name!r} of its own; take another name"
            )
        if folded in seen:
            raise UserError(
                f"{key}: {seen[folded]!r} and {name!r} are one folder where a file system ignores "
                "case; take another name for one of them"
            )
        seen[folded] = str(name)


def run_name(overrides: Sequence[str], *, _root_: DictConfig) -> str:
    """Name a run of a sweep by its overrides and a hash of its config: ``beta-0.04_3f2a9c1b``.

    Args:
        overrides: The overrides of the run, each ``key=value``.
        _root_: Its composed config, which OmegaConf passes.
    """
    config = OmegaConf.create({k: v for k, v in _root_.items_ex(resolve=False) if k != "hydra"})
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, UserError):  # the run will say what is wrong
        plain = {"overrides": list(overrides)}
    parts = []
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        if re.split("[./]", key)[0] not in NOT_IN_A_NAME and not re.search(r"[/\[{]", value):
            parts.append(re.sub(r"[^A-Za-z0-9.-]+", "-", f"{key.split('.')[-1]}-{value}"))
    name = "_".join(parts)[:LONGEST_NAME].rstrip("-_.")
    return f"{name or 'run'}_{identity(plain)[:8]}"
