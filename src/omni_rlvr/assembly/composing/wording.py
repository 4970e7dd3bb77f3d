"""Reword errors of OmegaConf and Hydra as one line, in terms of the keys of the config."""

from __future__ import annotations

import re
from collections.abc import Iterator

from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from omni_rlvr.assembly.composing.keys import example
from omni_rlvr.types import UserError

WORDS = {
    r"Interpolation key '(.+?)' not found": r"it follows from \1, which is no key of the config "
    r"(the text itself is typed \\${\1}, an environment variable ${oc.env:\1})",
    r"While dereferencing interpolation '(.+?)'": r"it follows from \1",
    r"\w+ raised while resolving interpolation: ": "",
    r"Missing mandatory value: (\S+)": r"\1 must be given",
    r"Recursive interpolation detected": "it refers to itself",
    r"Unsupported interpolation type (\S+)": r"${\1:...} is not a function of these configs",
}
"""Pattern of OmegaConf's message about a value that refers to another -> its replacement."""


def as_user_error(error: BaseException) -> UserError:
    """Find the UserError that a library wrapped, or reword the library's own error as one.

    Args:
        error: What composing, resolving or instantiating a config raised.

    Returns:
        An error whose message names the key, without details of how configs are resolved.
    """
    for cause in _chain(error):
        if isinstance(cause, UserError):
            return UserError(_of_key(error, str(cause)))
    library = next((e for e in _chain(error) if isinstance(e, OmegaConfBaseException)), None)
    if library is None:
        return UserError(f"config: {' '.join(str(error).split())}")
    if isinstance(library, MissingMandatoryValue) and library.full_key:
        return UserError(f"{library.full_key} must be given, e.g. {example(library.full_key)}")
    text, *_ = str(library).split("\n")
    for library_words, ours in WORDS.items():
        text = re.sub(library_words, ours, text)
    return UserError(_of_key(library, " ".join(text.split())))


def _of_key(error: BaseException, text: str) -> str:
    """Put the key that could not be set before a message that does not begin with it."""
    key = error.full_key if isinstance(error, OmegaConfBaseException) else None
    return text if not key or text.startswith(key.split(".")[0]) else f"{key}: {text}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what raised it, innermost last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
