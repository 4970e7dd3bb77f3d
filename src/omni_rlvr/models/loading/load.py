"""Loads a policy from a checkpoint, with an error that says what is wrong with a folder that is
none.

What a folder holds is found here: a whole model, which its family loads, or adapters, which go onto
their base.
"""

from __future__ import annotations

import json
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
from omni_rlvr.models.adapters.bare_adapter import find_bare_base, put_bare
from omni_rlvr.models.adapters.peft_format import is_bare_adapter
from omni_rlvr.models.families import COMPOSED, FAMILIES, family_of
from omni_rlvr.models.loading.config_file import CONFIG, read_fields
from omni_rlvr.models.loading.hub import check_pointers, find_checkpoint
from omni_rlvr.models.loading.weights import check_finite
from omni_rlvr.models.policy import Policy
from omni_rlvr.pointers import TRAINER_STATE, follow, whole_before
from omni_rlvr.types import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_policy(
    path: str, dtype: str, instruction: str | None, options: LoadOptions | None = None
) -> Policy:
    """Load a checkpoint of any family, in this package's layout or as it was published.

    One with adapters is put onto its base.

    Args:
        path: A checkpoint folder, or an id on the Hugging Face hub.
        dtype: "float32", "bfloat16" or "float16".
        instruction: Text after the question; None keeps what the checkpoint was trained with.
        options: What else is changed; None changes nothing.

    Returns:
        The policy in eval mode, on the CPU, all of it frozen; ``trainable.apply`` says what trains.

    Raises:
        UserError: The folder is no checkpoint, or its weights do not fit its config.
    """
    if dtype not in DTYPES:
        raise UserError(f"model.dtype={dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    options = options or LoadOptions()
    given = follow(Path(path))
    check_pointers(given)  # before their checksums: it says more
    check_written(given)
    if is_adapter_checkpoint(given):
        base = find_base(given, None)
        policy = load_policy(str(base), dtype, None, options)
        put_onto(policy, base, given, options, instruction)
        return policy
    folder = find_checkpoint(path, allow_pickle=options.allow_pickle)
    if is_bare_adapter(folder):
        return load_bare(folder, None, dtype, instruction, options)
    family = family_of(read_fields(folder)["model_type"])
    return family.load(folder, DTYPES[dtype], options, instruction)


def check_written(folder: Path) -> None:
    """Refuse a checkpoint of ours whose files have changed since they were written.

    Raises:
        UserError: Names the file, and another checkpoint of the same run that is whole.
    """
    if not distributed.is_first() or not folder.is_dir():
        return
    wrong = check_sums(folder, but=(TRAINER_STATE,))
    if wrong is not None:
        other = whole_before(folder)
        hint = f"model.path={other} is whole" if other else "copy it again from where it was made"
        raise UserError(
            f"model.path={folder}: {wrong}; {hint}, or delete {SUMS} there if you changed it"
        )


def load_bare(
    folder: Path, base: str | None, dtype: str, instruction: str | None, options: LoadOptions
) -> Policy:
    """Load an adapter folder of peft's own with its base.

    Args:
        folder: The folder with adapter_config.json.
        base: Where the base is; None takes the one that adapter_config.json names.
        dtype: Of the base.
        instruction: Text after the question; None keeps the base's.
        options: Of the base.

    Raises:
        UserError: There is no base, or the adapter does not fit it.
    """
    allow_pickle = options.allow_pickle
    found = find_bare_base(folder, base, allow_pickle=allow_pickle)
    policy = load_policy(str(found), dtype, instruction, options)
    policy.adapter_checkpoint = put_bare(policy, folder, found, allow_pickle=allow_pickle)
    policy.requires_grad_(False).eval()
    return policy


def put_onto(
    policy: Policy, base: Path, folder: Path, options: LoadOptions, instruction: str | None
) -> None:
    """Put what an adapter checkpoint holds onto its loaded base, with its processor."""
    policy.adapter_checkpoint = restore_adapter_checkpoint(policy, folder, base)
    check_finite(folder, policy.named_parameters())
    family_of(policy.config.model_type).put_processor(policy, folder, options, instruction)
    policy.requires_grad_(False).eval()


def sound_window_s(path: str | None) -> float:
    """Find how many seconds of sound a model takes, without loading it.

    Args:
        path: A checkpoint folder; for anything else it is the window of models joined from parts.
    """
    folder = None if path is None else Path(path)
    model_type = COMPOSED
    if folder is not None and (folder / CONFIG).is_file():
        fields = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        seen = fields.get("model_type") if isinstance(fields, dict) else None
        model_type = seen if seen in FAMILIES else COMPOSED
    return family_of(model_type).sound_window_s(folder)
