"""Checks of checkpoints that others made, and one form for the errors of libraries.

No code in a checkpoint is run. Every call that reads one passes ``trust_remote_code=False``, since
transformers would otherwise ask on the terminal and run the code on a "y". Settings that make a
library fetch code, or read quantised weights, are refused by name.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from omni_rlvr.types import UserError, first_line

CODE = "trust_remote_code"
SETTINGS = ("config.json", "tokenizer_config.json", "preprocessor_config.json")


@contextmanager
def one_error(what: str) -> Iterator[None]:
    """Turn any error of a library into a UserError.

    Args:
        what: What failed, e.g. ``"model.path=DIR: the tokenizer cannot be read"``; the message is
            this and the first line of the library's own.

    Raises:
        UserError: An error was raised inside.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a library may raise any error for a bad file
        reason = first_line(error)
        if CODE in str(error):
            reason = "it needs code that comes with it, which is never run"
        raise UserError(f"{what}: {reason}") from error


def import_bitsandbytes() -> ModuleType | None:
    """Import bitsandbytes without the package ``kernels``; None if it cannot be imported.

    If both are installed, importing bitsandbytes on a CPU with AVX512-BF16 downloads a kernel from
    the hub and runs it. Without ``kernels`` it uses its own.
    """
    if not importlib.util.find_spec("bitsandbytes"):
        return None
    log, there = logging.getLogger("bitsandbytes"), sys.modules.get("kernels")
    level = log.level
    log.setLevel(logging.ERROR)  # it would warn that kernels is missing
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("bitsandbytes")
    except (ImportError, OSError, RuntimeError):
        return None
    finally:
        log.setLevel(level)
        if there is None:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = there


def check_settings(folder: Path, source: str) -> None:
    """Refuse settings that would fetch code or read quantised weights.

    Args:
        folder: The folder of a checkpoint, a processor or a part.
        source: The folder's name in messages.

    Raises:
        UserError: A setting asks for code from elsewhere, or for quantised weights.
    """
    for name in SETTINGS:
        path = folder / name
        if not path.is_file():
            continue
        try:
            left: list[Any] = [json.loads(path.read_text(encoding="utf-8"))]
        except (ValueError, RecursionError) as error:
            raise UserError(f"{source}: {name} is not JSON: {first_line(error)}") from error
        while left:
            value = left.pop()
            if isinstance(value, dict):
                for key, below in value.items():
                    _check_setting(key, below, f"{source}: {name}")
                left.extend(value.values())
            elif isinstance(value, list):
                left.extend(value)


def _check_setting(key: str, value: Any, source: str) -> None:
    if key.endswith("_implementation") and isinstance(value, str) and "/" in value:
        raise UserError(
            f"{source} asks for code from elsewhere ({key}={value!r}), which is never fetched; "
            "remove that setting"
        )
    if key == "quantization_config" and value:
        raise UserError(
            f"{source} says that its weights are quantised ({key}), which is not supported; "
            "use the checkpoint before quantisation"
        )
