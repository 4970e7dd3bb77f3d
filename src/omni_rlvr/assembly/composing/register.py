"""Register the schemas, and the resolvers that configs use, with Hydra and OmegaConf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from omni_rlvr.assembly.composing.help_page import option_lines
from omni_rlvr.assembly.composing.latest import (
    latest_checkpoint,
    no_run_of,
    stopped_at_the_start,
)
from omni_rlvr.assembly.composing.names import check_run_name, run_name
from omni_rlvr.assembly.composing.paths import own_path
from omni_rlvr.config import dataset as data_options
from omni_rlvr.config import root, trainable
from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.folders import new_folder
from omni_rlvr.pointers import CHECKPOINT, CHECKPOINTS, LATEST, run_of
from omni_rlvr.ranks import rendezvous
from omni_rlvr.rewards.watchdog.time_limit import DEFAULT_S
from omni_rlvr.stages.table import STAGES
from omni_rlvr.text.prompts import EMOTION_QUESTION
from omni_rlvr.types import UserError

SCHEMAS: dict[str, dict[str, type]] = {
    "task": {},  # ``register`` fills it: this folder may not import tasks
    "stage": {name: row.config for name, row in STAGES.items()},
    "model/trainable": {"default": trainable.TrainableConfig},
    "dataset": {"schema": data_options.DatasetConfig, "official": data_options.OfficialConfig},
    "modality": {"schema": data_options.ModalityConfig},
    "paths": {"schema": root.PathsConfig},
}
"""Group -> option -> its dataclass; ``conf/GROUP/OPTION.yaml`` names the dataclass."""
OWN_KEYS: dict[str, str] = {}
"""Key at the root of the config -> the one task that takes it; ``register`` fills it."""
BASES = ("schema", "official")
"""Options without a file: a data set's own file begins with one of them."""
LOAD_OPTIONS = {
    "_target_": f"{LoadOptions.__module__}.{LoadOptions.__name__}",
    **asdict(LoadOptions()),
}
"""The defaults of ``model.options``."""


def schemas() -> Iterator[tuple[str, str, type]]:
    """Yield group, option and dataclass of each schema."""
    assert SCHEMAS["task"], "register() comes first"
    for group, options in SCHEMAS.items():
        yield from ((group, name, schema) for name, schema in options.items())


class _NotCopied(dict):
    """The stored schemas, which copies of the store share.

    Hydra copies the whole store for every group that it lists and for every config that it
    composes; this took 90 % of the time of ``--help``. ``ConfigStore.load`` still copies what it
    returns.
    """

    def __deepcopy__(self, memo: object) -> _NotCopied:
        return self


def register(tasks: Mapping[str, type], own_keys: Mapping[str, str]) -> None:
    """Register schemas and resolvers with Hydra; call this once, before Hydra composes.

    A schema is stored under the name of its class, so that a file in ``conf/`` shows where its
    fields are defined: ``defaults: [/SftConfig@_here_]``.

    Args:
        tasks: The name of each task -> its dataclass, see ``tasks/table.py``.
        own_keys: A key at the root of the config -> the one task that takes it.
    """
    SCHEMAS["task"] = dict(tasks)
    OWN_KEYS.update(own_keys)
    store = ConfigStore.instance()
    store.repo = _NotCopied(store.repo)
    store.store(name="RootConfig", node=root.RootConfig)
    for group, name, node in schemas():
        store.store(name=node.__name__, node=node)
        if name in BASES:
            store.store(group=group, name=name, node=node)
    store.store(name="LoadOptions", node=LOAD_OPTIONS)
    # A dictionary, because the reward's target decides which other keys there are.
    store.store(name="RewardConfig", node={"timeout_s": DEFAULT_S})
    OmegaConf.register_new_resolver("latest", _latest, replace=True)
    OmegaConf.register_new_resolver("latest_if_any", _latest_if_any, replace=True)
    OmegaConf.register_new_resolver("tiny_base", _tiny_base, replace=True)
    OmegaConf.register_new_resolver("split_or_first", _split_or_first, replace=True)
    OmegaConf.register_new_resolver("label_map", _label_map, replace=True)
    OmegaConf.register_new_resolver("label_words", _label_words, replace=True)
    # cached, so that every reference in a config gets the same folder
    OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("rank_0s", _rank_0s, replace=True)
    OmegaConf.register_new_resolver("own_path", own_path, replace=True)
    OmegaConf.register_new_resolver("sweep_run", run_name, replace=True)
    OmegaConf.register_new_resolver("emotion_question", lambda: EMOTION_QUESTION, replace=True)
    OmegaConf.register_new_resolver("option_lines", option_lines, replace=True)


def _tiny_base() -> str:
    return str(Path(__file__).parents[2] / "models" / "tiny_base")


def _split_or_first(split: str, *, _root_) -> str:
    """Return the split of this name, or the first split if the data set has none of this name."""
    splits = list(_root_.dataset.splits)
    return split if split in splits else splits[0]


def _label_map(label_maps: DictConfig, words: str) -> DictConfig:
    """Return the label map that a data set is read with."""
    if words not in label_maps:
        raise UserError(
            f"dataset.words={words!r} is not one of the data set's label maps: "
            f"{', '.join(map(str, label_maps))}"
        )
    return label_maps[words]


def _label_words(label_maps: DictConfig, words: str) -> list[str]:
    """List the labels of a label map, each once."""
    return list(dict.fromkeys(word for word in _label_map(label_maps, words).values() if word))


def _latest(experiment: str, *, _root_) -> str:
    """Return the checkpoint of the newest run of an experiment."""
    found = _latest_if_any(experiment, _root_=_root_)
    if found is None:
        raise UserError(no_run_of(Path(own_path(_root_.paths.output_root)), experiment))
    return found


def _latest_if_any(experiment: str, *, _root_) -> str | None:
    """Return the checkpoint of the newest run of an experiment; None if there is no run."""
    found = latest_checkpoint(Path(own_path(_root_.paths.output_root)), experiment)
    return None if found is None else str(found)


def _run_dir(output_root: str, name: str, resume: str | None) -> str:
    """Return the folder of this run, which rank 0 chooses for all ranks."""
    return rendezvous.broadcast(lambda: run_folder(output_root, name, resume))


def run_folder(output_root: str, name: str, resume: str | None) -> str:
    """Choose the folder of this run: the one that is resumed, or a new one named by the time.

    ``build`` checks whether the run can be resumed. A new folder is made here, so that commands
    that start in the same second get folders of their own.
    """
    output_root = own_path(output_root)
    check_run_name(name)
    if resume is not None:
        resume = own_path(resume, "resume")
        home = Path(output_root) / name
        folder = run_of(home / LATEST if resume == LATEST else Path(resume))
        anew = resume == LATEST and stopped_at_the_start(home) is not None
        if not anew and any(
            (folder / part).exists() for part in ("run.json", CHECKPOINT, CHECKPOINTS)
        ):
            return str(folder.resolve())
    now = datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S%z")
    folder = Path(output_root) / name / now
    try:
        return str(new_folder(folder))
    except OSError:  # Hydra will try to make it too, and say what is wrong
        return str(folder)


def _rank_0s(value: str, otherwise: str | None) -> str | None:
    """Return a value on the process that writes, and another one on other ranks."""
    return value if rendezvous.is_first() else otherwise
