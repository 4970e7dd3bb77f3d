"""Load models and processors that are transformers' own classes, for several families.

Each function takes the class. Any error that a library raises becomes one message that names the
folder. The family makes a policy of the loaded model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from packaging.version import Version

from omni_rlvr.models.loading.config_file import SETTINGS
from omni_rlvr.models.loading.hub import check_pointers
from omni_rlvr.models.loading.untrusted import check_settings, one_error
from omni_rlvr.models.policy import Policy
from omni_rlvr.models.tokenizing import with_padding
from omni_rlvr.types import UserError

NEEDED = "5.23.0"
"""Version of transformers: in earlier ones, the modules of these models have other names."""
Settings = TypeVar("Settings", bound=Any)


def check_version(title: str, installed: str = transformers.__version__) -> None:
    """Refuse a version of transformers in which these models are built differently.

    Raises:
        UserError: The version is too old; names the one to install.
    """
    if Version(installed) < Version(NEEDED):
        raise UserError(
            f"{title} models need transformers {NEEDED} or later, but {installed} is installed: "
            f"pip install 'transformers>={NEEDED},<6'"
        )


def read_model(folder: Path, kind: Any, dtype: torch.dtype, title: str) -> Any:
    """Load a model with all its weights.

    Args:
        folder: The checkpoint; only safetensors are read.
        kind: transformers' class of the model.
        dtype: The dtype of all weights.
        title: The model's name in messages.

    Raises:
        UserError: The weights cannot be read, or do not fit config.json.
    """
    with one_error(f"model.path={folder}: the weights do not fit config.json, or cannot be read"):
        model, report = kind.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if names := sorted(map(str, report[what])):
            raise UserError(
                f"model.path={folder}: {len(names)} weights are {what.removesuffix('_keys')} for "
                f"{title}, e.g. {names[0]}; download the folder again"
            )
    return model


def read_config(folder: Path, kind: Any) -> Any:
    """Read the config of a model.

    Raises:
        UserError: It cannot be read.
    """
    with one_error(f"model.path={folder}: config.json cannot be read"):
        return kind.config_class.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )


def outline_model(folder: Path, kind: Any, dtype: torch.dtype) -> Any:
    """Build a model on the meta device, where weights have shapes and take no memory."""
    config = read_config(folder, kind)
    with on_meta(dtype):
        return kind(config)


@contextmanager
def on_meta(dtype: torch.dtype) -> Iterator[None]:
    """Build modules inside on the meta device, with weights in a dtype.

    Buffers keep a dtype of their own, as in a loaded model (rotary frequencies are float32);
    ``model.to(dtype)`` would change those too.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.set_default_dtype(before)


def read_processor(folder: Path, kind: Any) -> Any:
    """Load transformers' processor: the tokenizer and the media processors.

    The tokenizer gets the processor's chat template and a pad token if it has none.

    Raises:
        UserError: It cannot be read.
    """
    check_settings(folder, f"model.path={folder}")
    check_pointers(folder)
    with one_error(f"model.path={folder}: the processor cannot be read"):
        processor = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if processor.tokenizer.chat_template is None:
        processor.tokenizer.chat_template = processor.chat_template
    with_padding(processor.tokenizer, folder)
    return processor


def saved_settings(folder: Path, default: Settings) -> Settings:
    """Read the settings that our checkpoints have next to transformers' files.

    Args:
        folder: The checkpoint; a published one has no settings.
        default: A dataclass with the values of what is not saved.

    Raises:
        UserError: They cannot be read, or have a field or value that the dataclass refuses.
    """
    if not (folder / SETTINGS).exists():
        return default
    with one_error(f"model.path={folder}: {SETTINGS} cannot be read"):
        return replace(default, **json.loads((folder / SETTINGS).read_text(encoding="utf-8")))


def check_fit(folder: Path, rows: Iterable[tuple[str, object, object]]) -> None:
    """Refuse a processor that was made for another model.

    Args:
        folder: The checkpoint.
        rows: (name, the processor's value, the value that the model's config requires).

    Raises:
        UserError: A value differs; names the first one.
    """
    for name, seen, wanted in rows:
        if seen != wanted:
            raise UserError(
                f"model.path={folder}: its processor has {name}={seen}, but config.json requires "
                f"{wanted}; copy the processor's files from the model that it was trained from"
            )


def export(policy: Policy, folder: Path, layout: str) -> None:
    """Write a policy as transformers' own model, which is how this package saves it too.

    Raises:
        UserError: ``layout`` is not "omni".
    """
    if layout != "omni":
        raise UserError(
            f"task.layout={layout}: for this model use omni, which transformers reads as well"
        )
    policy.save(folder)
