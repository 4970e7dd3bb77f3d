"""Load a policy from a checkpoint folder; an error says what is wrong with the folder.

A folder may hold a whole model, which its family loads, or adapters, which are loaded onto their
base.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from omni_rlvr import distributed
from omni_rlvr.config.loading import LoadOptions
from omni_rlvr.folders import SUMS, check_sums
from omni_rlvr.models.adapters.adapter_checkpoint import (
    find_base,
    is_adapter_checkpoint,
    restore_adapter_checkpoint,
)
from omni_rlvr.models.adapters.bare_adapter import base_here, find_bare_base, put_bare
from omni_rlvr.models.adapters.peft_format import is_bare_adapter
from omni_rlvr.models.families import COMPOSED, Family, family_of
from omni_rlvr.models.loading.config_file import CONFIG, model_type_of, read_fields
from omni_rlvr.models.loading.hub import check_pointers, find_checkpoint, show_downloads_only
from omni_rlvr.models.loading.quantize import (
    bitsandbytes,
    check_can_quantize,
    quantize,
    quantized,
)
from omni_rlvr.models.loading.weights import check_finite
from omni_rlvr.models.policy import Policy, TimeAxis
from omni_rlvr.pointers import TRAINER_STATE, follow, whole_before
from omni_rlvr.types import UserError

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_policy(
    path: str, dtype: str, instruction: str | None, options: LoadOptions | None = None
) -> Policy:
    """Load a checkpoint of any family, in this package's layout or as it was published.

    If it holds adapters, they are loaded onto their base.

    Args:
        path: A checkpoint folder, or an id on the Hugging Face hub.
        dtype: "float32", "bfloat16" or "float16".
        instruction: Text after the question; None keeps what the checkpoint was trained with.
        options: Other settings to change; None changes nothing.

    Returns:
        The policy in eval mode, on the CPU, all of it frozen; ``trainable.apply`` sets what
        trains.

    Raises:
        UserError: The folder is not a checkpoint, or its weights do not fit its config.
    """
    return _loaded(path, dtype, instruction, options or LoadOptions(), reads=True)


def load_skeleton(
    path: str, dtype: str, instruction: str | None, options: LoadOptions | None = None
) -> Policy:
    """Build the policy of ``load_policy``, with its adapters but without weights.

    Args:
        path: As for ``load_policy``; a hub id is downloaded.
        dtype: As for ``load_policy``.
        instruction: As for ``load_policy``.
        options: As for ``load_policy``.

    Returns:
        The policy on the meta device; see ``Family.skeleton``.

    Raises:
        UserError: The folder is not a checkpoint.
    """
    return _loaded(path, dtype, instruction, options or LoadOptions(), reads=False)


def _loaded(
    path: str, dtype: str, instruction: str | None, options: LoadOptions, *, reads: bool
) -> Policy:
    """Build the policy of a checkpoint, with its weights if ``reads``, else on the meta device."""
    if dtype not in DTYPES:
        raise UserError(f"model.dtype={dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    show_downloads_only()
    given = follow(Path(path))
    if reads:
        check_pointers(given)  # before the checksums: its error says more
        check_written(given)
    if is_adapter_checkpoint(given):
        base = find_base(given, None)
        policy = _loaded(str(base), dtype, None, options, reads=reads)
        put_onto(policy, base, given, options, instruction)
        return policy
    folder = find_checkpoint(path, allow_pickle=options.allow_pickle)
    if is_bare_adapter(folder):
        return load_bare(folder, None, dtype, instruction, options, reads=reads)
    family = family_of(read_fields(folder)["model_type"])
    if options.quantize is not None:  # refuse before weights are read
        if reads:
            bitsandbytes()
        check_can_quantize(family.skeleton(folder, DTYPES[dtype], options, instruction))
    build = family.load if reads else family.skeleton
    policy = build(folder, DTYPES[dtype], options, instruction)
    if reads and options.quantize is not None:
        quantize(policy)
    return policy


def check_written(folder: Path) -> None:
    """Refuse a checkpoint of ours whose files have changed since they were written.

    Raises:
        UserError: A file differs; names it, and an undamaged checkpoint of the same run if any.
    """
    if not distributed.is_first() or not folder.is_dir():
        return
    wrong = check_sums(folder, but=(TRAINER_STATE,))
    if wrong is not None:
        other = whole_before(folder)
        hint = f"model.path={other} is undamaged" if other else "copy it again from its source"
        raise UserError(
            f"model.path={folder}: {wrong}; {hint}, or delete {SUMS} there if you changed it"
        )


def load_bare(
    folder: Path,
    base: str | None,
    dtype: str,
    instruction: str | None,
    options: LoadOptions,
    *,
    reads: bool,
) -> Policy:
    """Load an adapter folder in peft's own format, with its base.

    Args:
        folder: The folder with adapter_config.json.
        base: Where the base is; None takes the one that adapter_config.json names.
        dtype: The dtype of the base.
        instruction: Text after the question; None keeps the base's.
        options: Load options of the base.
        reads: Whether to read weights, or to leave them on the meta device.

    Raises:
        UserError: There is no base, or the adapter does not fit it.
    """
    allow_pickle = options.allow_pickle
    found = find_bare_base(folder, base, allow_pickle=allow_pickle)
    policy = _loaded(str(found), dtype, instruction, options, reads=reads)
    policy.adapter_checkpoint = put_bare(policy, folder, found, allow_pickle=allow_pickle)
    policy.requires_grad_(False).eval()
    return policy


def put_onto(
    policy: Policy, base: Path, folder: Path, options: LoadOptions, instruction: str | None
) -> None:
    """Load the weights and the processor of an adapter checkpoint into its loaded base."""
    checkpoint = restore_adapter_checkpoint(policy, folder, base)
    policy.adapter_checkpoint = checkpoint
    is_skeleton = next(policy.parameters()).is_meta  # weights of a skeleton are not quantised
    if checkpoint.quantized != quantized(policy) and distributed.is_first() and not is_skeleton:
        log.warning(
            "model.path=%s: its adapters were trained on a base with model.options.quantize=%s, "
            "but the base is loaded with %s: outputs differ from those in training",
            folder, checkpoint.quantized or "null", quantized(policy) or "null",
        )  # fmt: skip
    check_finite(folder, policy.named_parameters())
    family_of(policy.config.model_type).put_processor(policy, folder, options, instruction)
    policy.requires_grad_(False).eval()


def sound_window_s(path: str | None, base: str | None = None) -> float | None:
    """Find how many seconds of sound a model takes, without loading it; None for no limit.

    Args:
        path: A checkpoint folder; anything else counts as a model joined from parts.
        base: Where the base of an adapter is; None takes the one that it names.
    """
    folder, config = _folders(path, base)
    return _family_at(config).sound_window_s(folder)


def time_axis(path: str | None, base: str | None, options: LoadOptions) -> TimeAxis | None:
    """Find how a model's positions encode time, without loading its weights.

    Args:
        path: A checkpoint folder; None is returned for anything else.
        base: Where the base of an adapter is; None takes the one that it names.
        options: Settings of the checkpoint to change.
    """
    folder, config = _folders(path, base)
    if folder is None or config is None or not (config / CONFIG).is_file():
        return None
    return _family_at(config).time_axis(folder, config, options)


def _folders(path: str | None, base: str | None) -> tuple[Path | None, Path | None]:
    """Find the folder of a checkpoint's processor, and that of its config.json."""
    if path is None:
        return None, None
    folder = follow(Path(path))
    if is_adapter_checkpoint(folder):
        return folder, find_base(folder, base)
    if is_bare_adapter(folder):
        folder = base_here(folder, base) or folder
    return folder, folder


def _family_at(folder: Path | None) -> Family:
    return family_of((None if folder is None else model_type_of(folder)) or COMPOSED)
