"""Compare the config of an earlier run with the present config, value by value.

A run of an earlier version lacks newer options. It counts as if it had them with their defaults,
because a default keeps the behaviour from before the option existed. Any other value of a newer
option is a difference.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

from omni_rlvr.assembly.composing.checks import locate
from omni_rlvr.assembly.composing.register import LOAD_OPTIONS, schemas
from omni_rlvr.config.dataset import FeatureCacheConfig
from omni_rlvr.config.root import RootConfig
from omni_rlvr.record import NOT_IDENTITY, leaves

_ABSENT = object()


def computes_the_same(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Tell whether a run with the config ``then`` computed what the config ``now`` asks for."""
    return all(key.partition(".")[0] in NOT_IDENTITY for key in differing(then, now))


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Find the keys whose values differ: key -> both values, None for a key that is absent.

    Args:
        then: The resolved config of a run, perhaps of an earlier version.
        now: The present resolved config.
    """
    before, after = leaves(completed(then)), leaves(now)
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key, _ABSENT) != after.get(key, _ABSENT)
        and (key in before or not _is_targets_default(key, now))
    }


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Add the options that are newer than a run, with their defaults.

    Args:
        config: The config in the run.json of that run.
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


def _options() -> Iterator[tuple[str, str, type]]:
    """Yield group, option and dataclass of all schemas that a config is completed with."""
    yield ("feature_cache", "default", FeatureCacheConfig)
    yield from schemas()


def _schema_of(group: str, values: Mapping[str, Any]) -> type:
    """Return the dataclass of a group whose fields fit the values best."""
    candidates = [schema for at, _, schema in _options() if at == group]
    return min(candidates, key=lambda schema: _mismatch(schema, values))


def _mismatch(schema: type, values: Mapping[str, Any]) -> tuple[int, bool, int]:
    known = {field.name: field.default for field in fields(schema)}
    named = known.get("name") in (values.get("name"), MISSING, "???")
    return len(values.keys() - known.keys()), not named, len(known.keys() - values.keys())


def _with_defaults(values: Mapping[str, Any], schema: type) -> dict[str, Any]:
    """Add the fields of a dataclass that the values lack, also in nested dataclasses."""
    whole = dict(values)
    for field in fields(schema):
        factory = field.default_factory
        default = field.default if factory is MISSING else factory()
        if default is MISSING:
            continue
        if field.name not in whole:
            is_value = is_dataclass(default) and not isinstance(default, type)
            whole[field.name] = asdict(default) if is_value else default
        elif is_dataclass(default) and isinstance(whole[field.name], Mapping):
            whole[field.name] = _with_defaults(whole[field.name], type(default))
    return whole


def _is_targets_default(key: str, config: Mapping[str, Any]) -> bool:
    """Tell whether a key holds the default of an argument of the ``_target_`` beside it."""
    *above, name = key.split(".")
    parent: Any = config
    for part in above:
        parent = parent[part]
    if "_target_" not in parent or name == "_target_":
        return False
    target: Any = locate(parent["_target_"], ".".join(above))
    parameter = inspect.signature(target).parameters.get(name)
    return parameter is not None and bool(parameter.default == parent[name])
