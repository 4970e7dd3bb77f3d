"""Reword Hydra's errors about unknown keys and options, and name the nearest one that exists.

Hydra advises to add an unknown key with ``+``, which is refused later, or lists all options of a
group without a hint. The keys and options that exist are found by composing the same command
without the part that failed, so this works only while Hydra is initialised.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from omni_rlvr.assembly.composing.arguments import as_typed, no_option
from omni_rlvr.assembly.composing.help_page import GLOBAL_GROUPS, conf_dir, options_in
from omni_rlvr.assembly.composing.keys import TYPED, names_of, no_such_key, open_tables
from omni_rlvr.assembly.composing.wording import as_user_error
from omni_rlvr.config.root import RootConfig
from omni_rlvr.record import leaves
from omni_rlvr.types import UserError

_OURS = ("config", "hydra/config")
"""Config files whose name would not help a user in a message."""
_SEARCH = "hydra/sweeper/optuna"
"""An option of Hydra that needs the extra ``sweep``, and has no file in ``conf/``."""


def composing_error(error: Exception, arguments: Sequence[str]) -> UserError | None:
    """Reword what Hydra, OmegaConf or YAML raised while a config was composed; None for others.

    Args:
        error: What was raised; Hydra need not be initialised any more.
        arguments: The overrides that were composed, flags among them.
    """
    match error:
        case OmegaConfBaseException():
            return as_user_error(error)
        case MissingConfigException(missing_cfg_file=file):
            hint = "; pip install 'omni-rlvr[sweep]'" if file == _SEARCH else ""
            return UserError(f"{_reworded(str(error), arguments)}{hint}")
        case HydraException():
            if (reworded := as_typed(error, arguments)) is not None:
                return reworded
            cause = error.__cause__
            why = as_user_error(cause) if isinstance(cause, ValidationError) else ""
            return UserError(_reworded(f"{error} {why}", arguments))
        case yaml.MarkedYAMLError(problem_mark=mark):
            place = "" if mark is None else f"{mark.name}, line {mark.line + 1}: "
            return UserError(f"{place}{error.problem} (YAML)")
        case ValueError() if str(error).startswith("Config group override must be"):
            return no_option(arguments)
    return None


def _reworded(text: str, arguments: Sequence[str]) -> str:
    """Reword a message of Hydra with Hydra initialised once more."""
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return reworded_message(" ".join(text.split()), arguments)


def reworded_message(text: str, arguments: Sequence[str] = ()) -> str:
    """Reword Hydra's message about an unknown key or option; others stay as they are.

    Args:
        text: Hydra's message, on one line.
        arguments: The overrides that were composed, flags among them.
    """
    found = re.match(r"In '(.+?)': ", text)
    said = text if found is None else text[found.end() :]
    place = "" if found is None or found[1] in _OURS else found[0]
    if option := re.match(r"Could not (?:find|load) '(.+?)'", said):
        unknown = _no_such_option(option[1], arguments)
        return text if unknown is None else place + unknown
    if (key := re.search(r" not in '.*\bfull_key: (\S+)", said)) and found is not None:
        return place + no_such_key(key[1], ())
    if value := re.match(r"\w+ raised while composing config: (.*) full_key: (\S+)", said):
        return f"{place}{value[2]}: {value[1]}"
    if key := re.match(r"Could not delete from config\. '(.+?)' does not exist", said):
        return no_such_key(key[1], leaves(_composed(key[1], arguments)))
    if key := re.fullmatch(r"Error merging override ~([^= ]+)", said):
        return f"~{key[1]}: {key[1]} cannot be deleted; give it a value: {key[1]}=VALUE"
    if key := re.match(r"Could not override '(.+?)'\. (To append to|No match in)", said):
        return place + _no_such_key(key[1], arguments, text)
    return text


def _no_such_key(key: str, arguments: Sequence[str], text: str) -> str:
    if key in names_of(RootConfig):
        return f"{key}: the value that is given holds a key that {key} does not have"
    group = key.partition(".")[0]
    if group in GLOBAL_GROUPS:
        given = next((a for a in arguments if a.startswith(f"{group}=")), f"{group}=NAME")
        return f"{given}: settings of this kind are added: +{given}"
    if "/" in group or "@" in group:
        groups = [f"{name}=" for name in options_in(_folders(arguments))]
        near = difflib.get_close_matches(f"{key}=", groups, n=1)
        return f"{key}: there is no such group; did you mean {near[0]}...?" if near else text
    config = _composed(key, arguments)
    given = next((a for a in arguments if a.partition("=")[0] == key), f"{key}=VALUE")
    above, name, below = _first_unknown(key, config)
    near = difflib.get_close_matches(name, _at(config, above), n=1)
    meant = ".".join([above, *near, *below])
    if above in open_tables():
        told = f"{above}.{name}: {above} has no such entry"
        return (
            f"{told}; did you mean {meant}? Or add one with +{given}"
            if near
            else (f"{told}; add one with +{given}")
        )
    if near and below:
        return f"{key}: there is no such key; did you mean {meant}?"
    if not near and above and group not in (*TYPED, "paths") and group in names_of(RootConfig):
        return f"{key}: {above} has no such key; add one with +{given}"
    return no_such_key(key, leaves(config))


def _first_unknown(key: str, config: Mapping[str, Any]) -> tuple[str, str, list[str]]:
    """Split a key at the first part that a config lacks: parts above it, that part, the rest."""
    parts = key.split(".")
    for place in range(1, len(parts)):
        above = ".".join(parts[:place])
        if parts[place] not in _at(config, above):
            return above, parts[place], parts[place + 1 :]
    return "", key, []


def _no_such_option(path: str, arguments: Sequence[str]) -> str | None:
    """Say that a group has no such option; None for groups that are not ours."""
    group, _, name = path.rpartition("/")
    top, _, below = path.partition("/")
    if top in GLOBAL_GROUPS:
        group, name = top, below
    there = options_in(_folders(arguments)).get(group)
    if there is None:
        return None
    given = f"{'+' if top in GLOBAL_GROUPS else ''}{group}={name}"
    near = difflib.get_close_matches(name, there, n=1)
    hint = f"did you mean {near[0]}?" if near else f"{group} has {', '.join(there)}"
    return f"{given}: there is no such option; {hint}"


def own_folders(arguments: Sequence[str]) -> list[Path]:
    """List the folders of option files that the command line adds with ``--config-dir``."""
    found = []
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            folder = value if equals else "".join(arguments[place + 1 : place + 2])
            found.append(Path(folder).absolute())
    return found


def _folders(arguments: Sequence[str]) -> list[Path]:
    """List the folders of option files, without Hydra's own."""
    if not GlobalHydra.instance().is_initialized():
        return []
    sources = GlobalHydra.instance().config_loader().get_sources()
    searched = [Path(s.path) for s in sources if s.scheme() == "file" and s.provider != "hydra"]
    return [*searched, *own_folders(arguments)]


def _composed(key: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Compose the config without the overrides of a key; {} if that fails too."""
    if not GlobalHydra.instance().is_initialized():
        return {}
    overrides = [
        text
        for text in arguments
        if re.match(r"[+~]{0,2}[A-Za-z]", text)
        and ("=" in text or text.startswith("~"))
        and text.lstrip("+~").partition("=")[0] != key
    ]
    if own := own_folders(arguments):
        overrides.append(f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in own)}]")
    try:
        config: Any = OmegaConf.to_container(compose("config", overrides=overrides))
    except (HydraException, OmegaConfBaseException):
        return {}
    return config


def _at(config: Mapping[str, Any], key: str) -> list[str]:
    """List the names below a key of a composed config."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return [str(name) for name in value] if isinstance(value, Mapping) else []
