"""Expand ``~`` and environment variables in every option that is a path.

``PATHS`` lists these options. They are expanded in the composed config before it is resolved, so
that run.json, checkpoints and messages hold the expanded paths.
"""

from __future__ import annotations

import logging
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from omni_rlvr.config.dataset import FeatureCacheConfig
from omni_rlvr.config.root import PathsConfig
from omni_rlvr.media.files import expanded, located

log = logging.getLogger(__name__)

PATHS = (
    "paths.*",
    "feature_cache.folder",
    "dataset.root",
    "dataset.annotations.*",
    "dataset.splits.*.root",
    "dataset.splits.*.annotations",
    "model.path",
    "model.base",
    "model.parts.vision_tower",
    "model.parts.audio_tower",
    "model.parts.language_model",
    "model.parts.gate_bert",
    "model.options.gate_vocab",
    "task.to",
    "task.compare",
    "logger.*.artifact_location",
    "resume",
    "runs",
    "video",
    "audio",
)
_MADE = ("features", "synthetic")
"""Folders in ``paths.data_root`` that mark the working folder as that of a project."""


def is_path(key: str) -> bool:
    """Tell whether the option with this full key is a path."""
    return any(fnmatchcase(key, pattern) for pattern in PATHS)


def own_path(text: str, key: str = "paths.output_root") -> str:
    """Expand ``~`` and variables in a path, and give it the spelling that it has on disk.

    Raises:
        UserError: There is no such user or variable.
    """
    text = expanded(text, key)
    if "${" in text or os.path.lexists(text):
        return text
    found = located(Path(text))
    return str(found) if os.path.lexists(found) else text


def settle_paths(cfg: DictConfig) -> None:
    """Expand every path in a composed config, in place; references to other options stay.

    Raises:
        UserError: A path holds a user or a variable that does not exist.
    """
    plain = OmegaConf.to_container(cfg, resolve=False)
    for pattern in PATHS:
        _settle(cfg, plain, pattern.split("."), "")
    if cfg.task.name == "predict":
        _settle_cache(cfg, plain)


def _settle(node: Any, plain: Any, parts: list[str], above: str) -> None:
    """Expand the paths below a node; ``plain`` is the same part with references unresolved."""
    if not isinstance(plain, dict):
        return
    for name in [n for n in plain if fnmatchcase(str(n), parts[0])]:
        key, value = f"{above}{name}", plain[name]
        if len(parts) > 1:
            if isinstance(value, dict):
                _settle(node[name], value, parts[1:], f"{key}.")
        elif isinstance(value, str) and value not in ("", "???"):
            several = value.split(",") if key == "runs" and not Path(value).exists() else [value]
            new = ",".join(own_path(part, key) for part in several)
            if new != value:
                node[name] = new
        elif isinstance(value, list):
            node[name] = [own_path(v, key) if isinstance(v, str) else v for v in value]


def _settle_cache(cfg: DictConfig, plain: Any) -> None:
    """Keep the features of a prediction in the user's cache folder if there is no project."""
    data_root = PathsConfig.data_root
    if (
        plain["feature_cache"]["folder"] != FeatureCacheConfig.folder
        or plain["paths"]["data_root"] != data_root
        or any((Path(data_root) / name).is_dir() for name in _MADE)
    ):
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "omni-rlvr"
    cfg.feature_cache.folder = str(folder / "features")
    log.info("features of clips are kept in %s (feature_cache.folder)", folder / "features")
