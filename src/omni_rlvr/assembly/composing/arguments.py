"""Check the arguments of the command line, and say how to type those that Hydra cannot read.

Hydra parses ``KEY=VALUE`` by a grammar in which spaces at the ends, commas, brackets, quotes, ``=``
and letters beyond ASCII have a meaning or are not allowed. A value in double quotes is always a
text; the shell then needs single quotes around the whole argument.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException

from omni_rlvr.assembly.composing.paths import is_path, own_path
from omni_rlvr.config.root import RootConfig
from omni_rlvr.media.files import expanded
from omni_rlvr.types import UserError

_KEY = re.compile(r"[+~]{0,2}[A-Za-z_][\w.@/:-]*")
_NO_OPTION = re.compile(r"null|true|false|[-+.\d]*|\{.*\}", re.IGNORECASE)
_GROUPS = ("experiment", "sweep", "debug", "hardware")
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.*?)'\n", re.DOTALL)
_REFERENCE = re.compile(r"(\\*)\$\{")


def override(key: str, value: str) -> str:
    """Write an override whose value is this text, whatever characters it holds."""
    text = _REFERENCE.sub(lambda match: rf"{match[1] * 2}\${{", value)
    return f"{key}={QuotedString(text, Quote.double).with_quotes()}"


def typed(key: str, value: str) -> str:
    """Write an option whose value is this text as an argument for a shell."""
    return shlex.quote(override(key, value))


FLAGS = {
    "--run": "-r",
    "--multirun": "-m",
    "--cfg": "-c",
    "--info": "-i",
    "--shell-completion": "-sc",
}
"""Hydra's flags of which a command can have one -> their short forms."""


def check_flags(arguments: Sequence[str]) -> None:
    """Refuse two flags that ask for different things.

    Raises:
        UserError: There are two of them. For a sweep with ``--cfg``, the message gives a command
            that prints the config of its first run.
    """
    wanted = {
        long
        for long, short in FLAGS.items()
        for text in arguments
        if text.split("=")[0] == long or text == short
    }
    if len(wanted) < 2:
        return
    text = " and ".join(flag for flag in FLAGS if flag in wanted)
    advice = "give one of them"
    if wanted == {"--multirun", "--cfg"}:
        first = [_first_value(a) for a in arguments if a not in ("--multirun", FLAGS["--multirun"])]
        command = shlex.join([Path(sys.argv[0]).name, *first])
        advice = f"--cfg prints one config; that of the sweep's first run: {command}"
    raise UserError(f"{text}: they ask for different things; {advice}")


def _first_value(argument: str) -> str:
    """Return an override with the first of its values; anything else as it is."""
    try:
        (override,) = OverridesParser.create().parse_overrides([argument])
    except HydraException:
        return argument
    if not override.is_sweep_override():
        return argument
    return f"{argument.partition('=')[0]}={next(override.sweep_string_iterator())}"


def checked_arguments(arguments: Sequence[str]) -> list[str]:
    """Refuse arguments that Hydra would read as something else than the text that was meant.

    Args:
        arguments: The command line without the command.

    Returns:
        The arguments. A ``~`` at the start of a path is replaced by the home folder, because shells
        leave it as it is after ``KEY=``, and Hydra cannot read it.

    Raises:
        UserError: An option has dashes before it, or a text looks like a number.
    """
    known = {*_GROUPS, *(field.name for field in fields(RootConfig))}
    checked = []
    for place, argument in enumerate(arguments):
        key, equals, value = argument.partition("=")
        name = key.lstrip("-")
        if key.startswith("-") and re.split("[./]", name)[0] in known:
            value = value if equals else "".join(arguments[place + 1 : place + 2])
            raise UserError(f"{argument}: options have no dashes here; type {typed(name, value)}")
        path = equals and is_path(key.lstrip("+"))
        if path and value.startswith("~"):
            argument = f"{key}={expanded(value, key.lstrip('+'))}"
        if path or key.lstrip("+") == "name":
            _check_text(argument, key, argument.partition("=")[2])
        checked.append(argument)
    return checked


def _check_text(argument: str, key: str, value: str) -> None:
    try:
        read = OverridesParser.create().parse_override(argument).value()
    except HydraException:  # Hydra will raise it again, and ``as_typed`` rewords it
        return
    if isinstance(read, str) and is_path(key.lstrip("+")):
        own_path(read, key.lstrip("+"))  # reports a user or variable that does not exist
    if isinstance(read, bool | int | float) and str(read) != value:
        raise UserError(
            f"{argument}: {value} is read as {read}, which is another name; to give it as it "
            f"stands type {typed(key, value)}"
        )


def as_typed(error: HydraException, arguments: Sequence[str]) -> UserError | None:
    """Reword Hydra's error about an argument that it cannot read; None for other errors.

    Args:
        error: What Hydra raised.
        arguments: The command line without the command.
    """
    if isinstance(error, OverrideParseException):
        return UserError(_unreadable(error.override, arguments))
    if isinstance(error, ConfigCompositionException):
        found = _AMBIGUOUS.search(str(error))
        if found is not None:
            key, _, value = found[1].partition("=")
            return UserError(
                f"{found[1]}: the commas make several values of it; for one text type "
                f"{typed(key, value)}, for a list {shlex.quote(f'{key}=[{value}]')}, and for a "
                "sweep add -m"
            )
    return None


def no_option(arguments: Sequence[str]) -> UserError:
    """Reword Hydra's error about a group whose value is not the name of an option."""
    given = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if "." not in key and _NO_OPTION.fullmatch(value):
            given.append(argument)
    return UserError(
        f"{' '.join(given)}: a group takes the name of one of its options (omni-rlvr --help shows "
        "them); an optional one is left out with ~GROUP, a list of several is emptied with GROUP=[]"
    )


def _unreadable(argument: str, arguments: Sequence[str]) -> str:
    key, equals, value = argument.partition("=")
    if equals and _KEY.fullmatch(key):
        text = f"{argument}: cannot be read as KEY=VALUE; for this text type {typed(key, value)}"
        is_list = value[:1] + value[-1:] in ("[]", "{}")
        return f'{text}; in a list, quote its texts: [a,"b c"]' if is_list else text
    clip = f"a clip is given as {typed('+video', argument)}"
    words = [argument]
    place = arguments.index(argument) if argument in arguments else 0
    before = list(arguments[:place])
    while before and not _has_key(before[-1]) and not before[-1].startswith("-"):
        words.insert(0, before.pop())
    if not before or not _has_key(before[-1]):
        return f"{argument}: is not KEY=VALUE; {clip}"
    for word in arguments[place + 1 :]:
        if _has_key(word) or word.startswith("-"):
            break
        words.append(word)
    key, _, value = before[-1].partition("=")
    whole = typed(key, " ".join([value, *words]))
    return (
        f"{argument}: is not KEY=VALUE; if it belongs to {before[-1]!r} before it, type {whole}; "
        f"{clip}"
    )


def _has_key(argument: str) -> bool:
    key, equals, _ = argument.partition("=")
    return bool(equals) and _KEY.fullmatch(key) is not None
