"""Words an error of OmegaConf or Hydra as one line that speaks of the command line's keys."""

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
    r"Unsupported interpolation type (\S+)": r"${\1:...} is no function that configs know",
}
"""What OmegaConf says of a value that refers to another -> what is said in its place."""


def as_user_error(error: BaseException) -> UserError:
    """Find the UserError that a library wrapped, or word the library's own as one.

    Args:
        error: What composing, resolving or instantiating a config raised.

    Returns:
        An error whose text names the key, and holds nothing of how configs are resolved.
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
    """Put the key that could not be set before a text that does not begin with such a key."""
    key = error.full_key if isinstance(error, OmegaConfBaseException) else None
    return text if not key or text.startswith(key.split(".")[0]) else f"{key}: {text}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what raised it, innermost last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
