"""Which keys of the configs differ between runs: the columns of the table, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from omni_rlvr.analysis.report.gather import RunData
from omni_rlvr.record import NOT_IDENTITY, whole_numbers

SEED = "seed"
START = "task.start_from"
GROUPS = ("modality", "dataset", "task")
"""Groups whose name stands for their other keys, where those follow from it."""

Row = dict[str, Any]


def differing(runs: Sequence[RunData]) -> tuple[list[str], list[Row]]:
    """Finds the keys whose values are not the same in all runs.

    Returns:
        The keys, the seed last, and for each run its values of them; None for a key it lacks.
    """
    flat = [_flat(run.record["config"]) for run in runs]
    keys = list(dict.fromkeys(key for row in flat for key in row))
    keys = [key for key in keys if len({_text(row.get(key)) for row in flat}) > 1]
    for group in GROUPS:
        name = f"{group}.name"
        if name in keys:
            keys = [
                k
                for k in keys
                if k == name or not k.startswith(f"{group}.") or not _follows(flat, k, name)
            ]
    size = f"{START}.num_examples"
    if "model.path" in keys and size in keys and _follows(flat, "model.path", size):
        keys.remove("model.path")
    keys.sort(key=lambda key: key == SEED)
    return keys, [{key: row.get(key) for key in keys} for row in flat]


def in_order(runs: Sequence[RunData]) -> list[RunData]:
    """Sorts runs by their values of the keys that differ, numbers before words, the seed last."""
    _, values = differing(runs)
    rank = [[_rank(value) for value in row.values()] for row in values]
    return [runs[i] for i in sorted(range(len(runs)), key=lambda i: rank[i])]


def label(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Words a setting by the last part of its keys: ``format=0.5, beta=0``."""
    tails = [key.rsplit(".", 1)[-1] for key in keys]
    parts = []
    for key, tail in zip(keys, tails, strict=True):
        short = tail if tails.count(tail) == 1 else key
        name = key.rsplit(".", 1)[0] if tail == "name" else short
        parts.append(f"{name}={_text(row[key])}")
    return ", ".join(parts) or "all runs"


def _flat(config: Mapping[str, Any]) -> Row:
    """Dotted key -> value, without where a run writes; a start restates nothing of the run."""
    out: Row = {}

    def walk(value: Any, key: str) -> None:
        if isinstance(value, Mapping) and value:
            for name, below in value.items():
                walk(below, f"{key}.{name}" if key else name)
        else:
            out[key] = json.dumps(value) if isinstance(value, list | dict) else value

    walk(whole_numbers({k: v for k, v in config.items() if k not in NOT_IDENTITY}), "")
    start = out.pop(f"{START}.overrides", None)
    texts = json.loads(start) if start is not None else []
    if texts and out[f"{START}.num_examples"] != 0:
        out[START] = json.dumps([text for text in texts if not _restates(text, out)])
        out["model.path"] = "from the start"  # the start's overrides and size say which
    return out


def _restates(override: str, flat: Row) -> bool:
    """Whether a start's override gives it the run's own value, or says where it writes."""
    key, _, value = override.partition("=")
    own = flat.get(key, flat.get(f"{key}.name"))
    return key.startswith("paths.") or (own is not None and _text(own) == value)


def _rank(value: Any) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float)
    return not is_number, float(value) if is_number else 0.0, _text(value)


def _follows(rows: Sequence[Row], key: str, source: str) -> bool:
    """Whether one key's value follows from another's in all runs."""
    seen: dict[str, str] = {}
    return all(
        seen.setdefault(_text(row.get(source)), _text(row.get(key))) == _text(row.get(key))
        for row in rows
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
