"""Compare the config of a run with one of now, value by value.

A run of an earlier version lacks the options that came since. It counts as if each of them had been
there with its default, which does what was done before there was the option. With any other value
the option is a difference, whoever set it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from typing import Any

from omni_rlvr.assembly.composing.checks import locate
from omni_rlvr.assembly.composing.register import LOAD_OPTIONS, schemas
from omni_rlvr.config.dataset import FeatureCacheConfig
from omni_rlvr.config.root import RootConfig
from omni_rlvr.record import NOT_IDENTITY

_ABSENT = object()


def computes_the_same(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a run, by its resolved config, computed what the config of now asks for."""
    return all(key.partition(".")[0] in NOT_IDENTITY for key in differing(then, now))


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Find the keys whose values differ: key -> both values, None for a key that is not there.

    Args:
        then: the resolved config of a run, maybe of an earlier version.
        now: that of now.
    """
    before, after = leaves(completed(then)), leaves(now)
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key, _ABSENT) != after.get(key, _ABSENT)
        and not (key not in before and _is_targets_default(key, now))
    }


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Add the options that came after a run was made, with their defaults.

    Args:
        config: of its run.json.
    """
    whole = _with_defaults(config, RootConfig)
    for group in dict.fromkeys(group for group, _, _ in _options()):
        above, _, name = group.rpartition("/")
        parent = whole
        if above:
            if not isinstance(whole.get(above), Mapping):
                continue
            parent = whole[above] = dict(whole[above])
        if isinstance(parent.get(name), Mapping):
            parent[name] = _with_defaults(parent[name], _schema_of(group, parent[name]))
    model = whole.get("model")
    if isinstance(model, Mapping) and model.get("options") is None:
        whole["model"] = {**model, "options": LOAD_OPTIONS}
    return whole


def leaves(config: Any, key: str = "") -> dict[str, Any]:
    """Name each value by its whole key."""
    if not isinstance(config, Mapping) or not config:
        return {key: config}
    return {
        name: value
        for below in config
        for name, value in leaves(config[below], f"{key}.{below}".lstrip(".")).items()
    }


def _options() -> Iterator[tuple[str, str, type]]:
    """Yield group, option and dataclass of all that a config is completed by."""
    yield ("feature_cache", "default", FeatureCacheConfig)
    yield from schemas()


def _schema_of(group: str, values: Mapping[str, Any]) -> type:
    """Return the dataclass that the values of a group were of: it knows them, and few others."""
    candidates = [schema for at, _, schema in _options() if at == group]
    return min(candidates, key=lambda schema: _strangeness(schema, values))


def _strangeness(schema: type, values: Mapping[str, Any]) -> tuple[int, bool, int]:
    known = {field.name: field.default for field in fields(schema)}
    named = known.get("name") in (values.get("name"), MISSING, "???")
    return len(values.keys() - known.keys()), not named, len(known.keys() - values.keys())


def _with_defaults(values: Mapping[str, Any], schema: type) -> dict[str, Any]:
    """Add the fields of a dataclass that values lack, and those of its dataclasses."""
    whole = dict(values)
    for field, default in _defaults(schema):
        if field.name not in whole:
            is_value = is_dataclass(default) and not isinstance(default, type)
            whole[field.name] = asdict(default) if is_value else default
        elif is_dataclass(default) and isinstance(whole[field.name], Mapping):
            whole[field.name] = _with_defaults(whole[field.name], type(default))
    return whole


def _defaults(schema: type) -> Iterator[tuple[Field, Any]]:
    for field in fields(schema):
        factory = field.default_factory
        default = field.default if factory is MISSING else factory()
        if default is not MISSING:
            yield field, default


def _is_targets_default(key: str, config: Mapping[str, Any]) -> bool:
    """Whether an argument of what a ``_target_`` names is the one that it has without it."""
    *above, name = key.split(".")
    parent: Any = config
    for part in above:
        parent = parent[part]
    if "_target_" not in parent or name == "_target_":
        return False
    target: Any = locate(parent["_target_"], ".".join(above))
    parameter = inspect.signature(target).parameters.get(name)
    return parameter is not None and bool(parameter.default == parent[name])
