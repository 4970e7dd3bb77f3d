"""Reading what others made: whatever a library raises over it is one error that names it.

Nothing that lies in a checkpoint is run. ``trust_remote_code=False`` stands in every call that
reads one, since transformers would else ask on the terminal, and run it on a "y"; settings by which
a library would fetch code, or read weights in another form, are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omni_rlvr.types import UserError

CODE = "trust_remote_code"
SETTINGS = ("config.json", "tokenizer_config.json", "preprocessor_config.json")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Words what goes wrong inside as one error: ``what`` and the library's first line.

    Raises:
        UserError: anything was raised.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # over a file that somebody made, a library raises anything
        reason = first_line(error)
        if CODE in str(error):
            reason = "it needs code that comes with it, and that is never run here"
        raise UserError(f"{what}: {reason}") from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its kind."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def check_settings(folder: Path, source: str) -> None:
    """Refuses settings that ask for more than reading.

    Args:
        folder: of a checkpoint, a processor or a part.
        source: names it, for messages.

    Raises:
        UserError: a setting asks for code from elsewhere, or for quantised weights.
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
            "take that setting out"
        )
    if key == "quantization_config" and value:
        raise UserError(
            f"{source} says that its weights are quantised ({key}), which are not read here; "
            "take the checkpoint as it was before"
        )
