"""A reader of a user's own in place of one of ours: ``dataset.splits.train._target_=mine.Reader``.

The data set's file gives our reader its arguments. One's own is given those of them that it names,
and is not asked for a folder or an annotation file that it does not take.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from omni_rlvr.assembly.composing.checks import locate

OFFERED = ("form", "annotations", "root", "labels", "seed")
"""What files for annotated clips (r1_omni, ms_swift, messages) give their reader."""


def fit_own_readers(cfg: DictConfig) -> None:
    """Leave out of the splits, in place, what a reader of the user's own does not take.

    Raises:
        UserError: such a reader cannot be imported.
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
            continue  # ``check_targets`` says so
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
