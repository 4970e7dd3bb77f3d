"""Load the policy of a config, and open the cache for the features of its towers."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from omni_rlvr import distributed
from omni_rlvr.assembly.composed import Clips, Composed
from omni_rlvr.assembly.composing.latest import (
    checkpoints_there,
    has_finished,
    how_it_ended,
    latest_checkpoint,
    no_run_of,
    run_that_wrote,
)
from omni_rlvr.assembly.instantiate import loader_of, make
from omni_rlvr.config.dataset import ModalityConfig
from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.config.tasks import TrainTask
from omni_rlvr.data.annotations.example_table import suspects
from omni_rlvr.data.features.cache import FeatureCache, open_cache
from omni_rlvr.folders import whole_folder
from omni_rlvr.models.adapters.adapter_checkpoint import find_base, is_adapter_checkpoint
from omni_rlvr.models.adapters.peft_format import is_bare_adapter
from omni_rlvr.models.loading.fingerprint import tower_fingerprints
from omni_rlvr.models.loading.hub import is_hub_id
from omni_rlvr.models.loading.load import check_written, load_bare, put_onto
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.trained_on import read_trained_on
from omni_rlvr.pointers import LATEST, follow, problem
from omni_rlvr.types import Example, UserError

log = logging.getLogger(__name__)


LONG_GB = 1.0
"""Size of weights, in 10^9 bytes, from which on a message says that they are being read."""


def load_policy(composed: Composed, examples: Mapping[str, Sequence[Example]]) -> Policy:
    """Load the policy of a config, and check that no text of the examples holds a special token.

    A resumed run that wrote a base for its adapters loads this base; it does not compose its parts
    again. A rank that will be sent its weights gets them on the meta device.

    Raises:
        UserError: The checkpoint cannot be loaded, has no tower for a modality that is used, or the
            text of an example holds a special token.
    """
    model: Any = composed.cfg.model
    if composed.base is not None and composed.cfg.resume is not None:
        model = OmegaConf.merge(model, {"path": str(composed.base), "base": None})
    policy = load(model) if reads_weights(composed) else skeleton(model)
    check_modality(policy, composed.modality)
    for rows in examples.values():
        tokens = policy.processor.tokenizer.get_added_vocab()
        for index in suspects(rows, list(tokens)):
            example = rows[index]
            policy.processor.check_text(example.question, example.source)
            policy.processor.check_text(example.target, example.source)
    return policy


def check_modality(policy: Policy, modality: ModalityConfig) -> None:
    """Refuse a modality that a model has no tower for.

    Raises:
        UserError: A used modality has no tower; the message names an option that works.
    """
    towers = policy.towers()
    for name, is_used in (("video", modality.video), ("audio", modality.audio)):
        if is_used and name not in towers:
            raise UserError(
                f"modality={modality.name}: a model of model_type={policy.config.model_type} takes "
                f"no {name}; set modality={'_'.join(towers)}"
            )


def check_there(model: DictConfig, root: Path) -> None:
    """Refuse a checkpoint that is neither a folder nor a name on the hub, before any work.

    Args:
        model: The group ``model``.
        root: ``paths.output_root``.

    Raises:
        UserError: It is neither; the message proposes one that is there, or what makes it.
    """
    path = model.path
    if path is None or not has_skeleton(model) or is_hub_id(path) or follow(Path(path)).is_dir():
        return
    told = f"model.path={path} is not a folder{problem(Path(path))}"
    home = next((above.parent for above in Path(path).parents if above.name == LATEST), None)
    if home is not None and home.absolute().is_relative_to(root.absolute()):
        name = home.absolute().relative_to(root.absolute()).as_posix()
        found = latest_checkpoint(root, name)
        if found is None:
            raise UserError(f"{told}: {no_run_of(root, name)}")
        raise UserError(f"{told}; {shlex.quote(f'model.path={found}')} uses the run that is there")
    raise UserError(f"{told}; give the folder of a checkpoint, {checkpoints_there(root)}")


def load(model: DictConfig) -> Policy:
    """Load a checkpoint; if ``model.base`` is given, load its adapters onto that base.

    Print which checkpoint it is and how the run that wrote it ended.
    """
    # without model.path, model.base is a folder that a base will be written to
    given = model.base is not None and model.path is not None
    checkpoint = None if model.path is None else follow(Path(model.path))
    if checkpoint is not None and distributed.is_first():
        size = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors")) / 1e9
        if size >= LONG_GB:
            told = f"model: reading {size:.1f} GB from {checkpoint}"
            print(told, file=sys.stderr, flush=True)  # stdout is for answers
    policy = _onto_base(model, reads=True) if given else make(loader_of(model))
    if checkpoint is not None:
        policy.trained_on = read_trained_on(model.path)
    if checkpoint is not None and distributed.is_first():
        run = run_that_wrote(checkpoint)
        ended = "" if run is None else f" (its run {how_it_ended(run)})"
        print(f"model: {checkpoint}{ended}", file=sys.stderr, flush=True)
        if run is not None and not has_finished(run):
            log.warning("model.path=%s: its run %s", checkpoint, how_it_ended(run))
    return policy


SKELETONS = {
    "omni_rlvr.models.loading.load.load_policy": "omni_rlvr.models.loading.load.load_skeleton",
    "omni_rlvr.models.loading.from_parts.compose_policy": (
        "omni_rlvr.models.loading.from_parts.compose_skeleton"
    ),
}
"""``model._target_`` -> the function that builds the same policy without weights."""


def has_skeleton(model: DictConfig) -> bool:
    """Tell whether a model can be built without weights; only loaders of this package can."""
    return model._target_ in SKELETONS


def reads_weights(composed: Composed) -> bool:
    """Tell whether this process reads the weights that it trains.

    Under ``trainer.strategy=fsdp2`` the first rank does, and sends the others their parts, so that
    a machine does not hold a model for each of its devices.
    """
    shares = composed.place.config["trainer"].get("strategy") == "fsdp2"
    sent = shares and isinstance(composed.task, TrainTask) and has_skeleton(composed.cfg.model)
    return distributed.is_first() or not sent


def skeleton(model: DictConfig) -> Policy:
    """Build on the meta device, without reading weights, the policy that ``load`` would load.

    Raises:
        UserError: The model has a user's own loader, or the checkpoint cannot be read.
    """
    if not has_skeleton(model):
        raise UserError(
            f"model._target_={model._target_}: only models that this package loads can be built "
            f"without their weights ({', '.join(SKELETONS)})"
        )
    given = model.base is not None and model.path is not None
    return _onto_base(model, reads=False) if given else make(_loader(model, reads=False))


def load_resumed(composed: Composed, saved: Path) -> Policy:
    """Load a full (not an adapter) checkpoint of the run that is resumed; see ``load_policy``."""
    reads = reads_weights(composed)
    return make(_loader(composed.cfg.model, reads=reads), path=str(saved), instruction=None)


def _loader(model: DictConfig, *, reads: bool) -> dict[str, Any]:
    """Select the config that loads a model, or that builds it without weights."""
    loader = loader_of(model)
    return loader if reads else {**loader, "_target_": SKELETONS[model._target_]}


def load_other(model: DictConfig, path: str) -> Policy:
    """Load another checkpoint with the options of ``model``."""
    other: Any = OmegaConf.merge(model, {"path": path})
    return load(other)


def _onto_base(model: DictConfig, *, reads: bool) -> Policy:
    folder = follow(Path(model.path))
    if reads:
        check_written(folder)
    options = (make(model.options) if "options" in model else None) or LoadOptions()
    if is_bare_adapter(folder):
        return load_bare(folder, model.base, model.dtype, model.instruction, options, reads=reads)
    if not is_adapter_checkpoint(folder):
        raise UserError(f"model.base={model.base}: model.path={folder} has no adapter to put on it")
    base = find_base(folder, model.base)
    policy = make(_loader(model, reads=reads), path=str(base), instruction=None)
    put_onto(policy, base, folder, options, model.instruction)
    return policy


def base_to_write(cfg: DictConfig, typed: Mapping[str, Any], run_dir: Path) -> Path | None:
    """Choose the folder for the base of new adapters, if the model was composed from parts.

    Returns:
        ``model.base``, or ``base`` in the run's folder; None if no base has to be written.

    Raises:
        UserError: The folder exists, cannot be made, or is given but not needed.
    """
    model = cfg.model
    if model.path is not None:
        return None
    adapts = isinstance(typed["task"], TrainTask) and typed["trainable"].lora.enabled
    if not adapts:
        if model.base is not None:
            raise UserError(
                f"model.base={model.base}: without model.path it is the folder that the base of "
                "new adapters is written to; add model/trainable=lora, or leave it out"
            )
        return None
    base = run_dir / "base" if model.base is None else Path(model.base)
    if cfg.resume is None and distributed.is_first():
        if base.exists():
            raise UserError(
                f"model.base={base} is there already; start from it with model.path={base}, or "
                "give a folder that does not exist"
            )
        try:
            base.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"model.base={base} cannot be written: {error}") from error
        if not os.access(base.parent, os.W_OK):
            raise UserError(f"model.base={base} cannot be written: {base.parent} is read-only")
    return base


def write_base(policy: Policy, base: Path) -> None:
    """Write a composed policy, completely or not at all; only the first rank writes.

    Raises:
        UserError: The folder cannot be written.
    """
    failed: str | None = None
    if distributed.is_first():
        try:
            with whole_folder(base, sums=True) as partial:
                policy.save(partial)
        except OSError as error:
            failed = str(error)
    failed = distributed.gather(failed)[0]
    if failed is not None:
        raise UserError(f"model.base={base} cannot be written: {failed}")


def feature_cache(config: Any, clips: Clips, policy: Policy) -> FeatureCache | None:
    """Open the feature cache, unless it is off or a tower that is used is trained."""
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
    towers = distributed.gather(tower_fingerprints(policy) if distributed.is_first() else None)[0]
    assert towers is not None
    return open_cache(config, towers, use, policy.processor.common_shapes)
