"""Miniature trees of official data set layouts: annotation files, and clips that are not opened.

``read`` builds a reader as the command does: from ``conf/dataset/NAME.yaml`` and overrides.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from omni_rlvr.assembly.instantiate import check, make
from omni_rlvr.cli import conf_dir
from omni_rlvr.data.annotations.example_table import ExampleTable
from omni_rlvr.tasks.table import register


def read(name: str, root: Path, split: str, *overrides: str) -> ExampleTable:
    """Read a split of a data set as it would be in a run."""
    cfg = copy.deepcopy(composed(f"dataset={name}", "dataset.root=nowhere"))
    for override in (f"dataset.root={root}", *overrides):
        key, _, value = override.partition("=")
        OmegaConf.update(cfg, key, yaml.safe_load(value))
    check(cfg)
    return make(cfg.dataset.splits[split]).read()


@functools.cache
def composed(*overrides: str) -> DictConfig:
    """A composed config. Composing takes a third of a second: the same one is made once."""
    register()
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files below a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def lines(*rows: str) -> str:
    """Text of rows."""
    return "".join(f"{row}\n" for row in rows)


def told(examples: ExampleTable) -> list[tuple[str, str, str]]:
    """What each example is: id, path of its clip below the root, answer."""
    return [
        (e.id, str((e.video or e.audio).relative_to(examples.root)), e.answer) for e in examples
    ]


RAVDESS_WORDS = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")


def ravdess(root: Path, actors: Sequence[int], modalities: Sequence[str]) -> Path:
    """One trial an emotion and actor, as archives unpack; a song and a stranger beside them."""
    for actor in actors:
        folder = root / f"Video_Speech_Actor_{actor:02d}" / f"Actor_{actor:02d}"
        for modality in modalities:
            suffix = "wav" if modality == "03" else "mp4"
            for emotion in range(1, 9):
                name = f"{modality}-01-{emotion:02d}-01-01-01-{actor:02d}.{suffix}"
                write(folder, {name: ""})
        write(folder, {f"01-02-03-01-01-01-{actor:02d}.mp4": "", "readme.mp4": ""})
    return root
