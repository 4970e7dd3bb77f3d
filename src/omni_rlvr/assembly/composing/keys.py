"""Refuse unknown keys in a composed config, and name the nearest key that exists.

Hydra refuses most unknown keys while it composes, but not those that the command line adds with
``+`` or ``++``. A misspelt key would then stand in run.json as if it had an effect.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_origin, get_type_hints

from omni_rlvr.assembly.composing.help_page import GLOBAL_GROUPS
from omni_rlvr.assembly.composing.paths import is_path
from omni_rlvr.assembly.composing.register import schemas
from omni_rlvr.config.dataset import FeatureCacheConfig
from omni_rlvr.config.root import PathsConfig, RootConfig
from omni_rlvr.types import UserError

TYPED = ("task", "stage", "dataset", "modality", "feature_cache")
"""Groups that are read as dataclasses: they hold the fields of their schemas and nothing else."""


def check_keys(config: Mapping[str, Any], typed: Mapping[str, Any]) -> None:
    """Check that the root and the typed groups hold all fields of their schemas and no other key.

    Args:
        config: The whole config, resolved, as plain values.
        typed: Group -> its dataclass.

    Raises:
        UserError: A key is unknown or was deleted, or a group's option has no schema.
    """
    for group in TYPED:
        if not dataclasses.is_dataclass(typed[group]):
            names = ", ".join(name for at, name, _ in schemas() if at == group)
            raise UserError(
                f"{group}: the file of the chosen option has no schema; let it begin with "
                f"'defaults: [NAME]', where NAME is one of {names}"
            )
    tables: list[tuple[str, Mapping[str, Any], type]] = [
        ("", config, RootConfig),
        ("paths.", config["paths"], PathsConfig),
        *(t for group in TYPED for t in _tables(config[group], typed[group], f"{group}.")),
    ]
    for above, values, schema in tables:
        for name in values:
            if name not in names_of(schema):
                raise UserError(no_such_key(f"{above}{name}", _keys_of(config, "")))
    for above, values, schema in tables:
        for name in names_of(schema):
            # a field that was deleted (``~stage.beta``) would count with its default, unrecorded
            if name not in values or (schema is PathsConfig and not values[name]):
                raise UserError(f"{above}{name} must be given, e.g. {example(f'{above}{name}')}")


def names_of(schema: type) -> list[str]:
    """List the names of the fields of a dataclass."""
    return [field.name for field in dataclasses.fields(schema)]


def no_such_key(key: str, known: Iterable[str]) -> str:
    """Make the message that a key is unknown, with the key that may be meant.

    Args:
        key: The unknown key.
        known: Existing keys besides those of the schemas.
    """
    having = [
        f"{group}={name}"
        for group, name, schema in schemas()
        if key in dict(_fields(group, schema))
    ]
    if having:
        return f"{key}: there is no such key here; {', '.join(having)} would have it"
    group, _, name = key.rpartition(".")
    candidates = [k for k in dict.fromkeys([*known, *known_keys()]) if k != key]
    namesakes = [k for k in candidates if k.rpartition(".")[2] == name]
    beside = {k.rpartition(".")[2]: k for k in candidates if k.rpartition(".")[0] == group}
    near = [k for k in namesakes if group and k.startswith(f"{group}.")]
    near += [beside[n] for n in difflib.get_close_matches(name, beside, n=1)]
    near += namesakes
    if not beside:
        near += difflib.get_close_matches(key, candidates, n=1, cutoff=0.8)
    if not group:
        near += [f"+{n}=NAME" for n in difflib.get_close_matches(name, GLOBAL_GROUPS, n=1)]
    if near:
        return f"{key}: there is no such key; did you mean {near[0]}?"
    has = f"{group or 'the config'} has {', '.join(beside)}" if beside else "see omni-rlvr --help"
    return f"{key}: there is no such key; {has}"


def open_tables() -> set[str]:
    """Name the tables whose entries a user names freely, e.g. ``task.stages``."""
    found = {"reward.terms", "reward.weights", "logger", "callbacks"}
    for group, _, schema in schemas():
        for name, kind in get_type_hints(schema).items():
            if get_origin(kind) is dict:
                found.add(f"{group.replace('/', '.')}.{name}")
    return found


def example(key: str) -> str:
    """Write an example of an override for a required key, e.g. ``task.to=DIR``."""
    kinds = [kind for name, kind in _typed_fields() if name == key]
    if is_path(key):
        return f"{key}={'FILE' if 'annotations' in key else 'DIR'}"
    examples = {bool: "true", int: "1", float: "1.0", str: "NAME"}
    if kinds and get_origin(kinds[0]) is list:
        return f"{key}=[NAME]"
    return f"{key}={examples.get(kinds[0], 'VALUE') if kinds else 'VALUE'}"


def known_keys() -> Iterator[str]:
    """Yield every key of the schemas, e.g. ``stage.sampling.top_p``."""
    yield from names_of(RootConfig)
    yield from (key for key, _ in _typed_fields())


def _typed_fields() -> Iterator[tuple[str, Any]]:
    """Yield every key of the schemas with its type."""
    for group, _, schema in (("feature_cache", "", FeatureCacheConfig), *schemas()):
        yield from _fields(group, schema)


def _fields(group: str, schema: type) -> Iterator[tuple[str, Any]]:
    for name, kind in get_type_hints(schema).items():
        key = f"{group.replace('/', '.')}.{name}"
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from _fields(key, kind)
        else:
            yield key, kind


def _tables(
    values: Mapping[str, Any], typed: Any, above: str
) -> Iterator[tuple[str, Mapping[str, Any], type]]:
    """Yield prefix, values and class of a dataclass and of those nested in it."""
    yield above, values, type(typed)
    for name, below in vars(typed).items():
        if dataclasses.is_dataclass(below) and isinstance(values.get(name), Mapping):
            yield from _tables(values[name], below, f"{above}{name}.")


def _keys_of(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Yield the keys of a config's untyped groups, which no schema lists."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _keys_of(value, f"{prefix}{name}.")
        elif prefix.split(".")[0] not in (*TYPED, "") and name != "_target_":
            yield f"{prefix}{name}"
