"""Find the config keys that differ between runs, for columns of tables and names of settings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omni_rlvr.record import NOT_IDENTITY, whole_numbers
from omni_rlvr.tasks.report.gather import RunData

SEED = "seed"
START = "task.start_from"
RUN = "run folder"
"""Column for runs with the same setting, seed and split, since only seeds are averaged."""
MODEL = "model.path"
GROUPS = ("modality", "dataset", "task")
"""Groups whose name replaces their other keys where the name determines them."""
NOT_SETTINGS = re.compile(
    r"name$|(task|task\.evaluate_after)\.(splits|batch_size|num_resamples|score_labels)$"
    r"|dataset\.num_workers$|feature_cache\."
)
"""Keys that do not change results: names, batch sizes, and what is measured afterwards."""
OF_TRAINING = re.compile(
    r"(stage|optimizer|reward|trainer|lexicon|model\.trainable)\."
    r"|dataset\.(train_split|max_train_examples)$"
)
"""Keys that have no effect in a run without training, although its config holds them."""
UNSAID = ("name", "path")
"""Last parts of keys that a label leaves out, as in ``modality=audio, model=rlvr``."""
CHECKPOINT = re.compile(r"/checkpoints?(/step_\w+)?/?$")
RUN_TIME = re.compile(r"\d{4}-\d\d-\d\d")

Row = dict[str, Any]


def differing(runs: Sequence[RunData]) -> tuple[list[str], list[Row]]:
    """Find the keys that distinguish settings.

    A key that only some runs have is one if its values differ, or if no other key distinguishes
    these runs from the rest.

    Returns:
        The keys, the seed last, and for each run its values of them; None for a key it lacks.
    """
    flat = [_flat(run) for run in runs]
    for row, name in zip(flat, _short_models(flat), strict=True):
        row |= {MODEL: name} if MODEL in row else {}
    names = list(dict.fromkeys(key for row in flat for key in row))
    texts = {key: [_text(row.get(key)) for row in flat] for key in names}
    keys = [key for key in names if len({_text(row[key]) for row in flat if key in row}) > 1]
    for key in names:
        has = [key in row for row in flat]
        if key not in keys and not all(has) and not _decide(flat, keys, has):
            keys.append(key)
    keys.sort(key=names.index)
    for name in (f"{group}.name" for group in GROUPS):
        group = name.removesuffix("name")
        if name in keys:
            follows = [k for k in keys if k.startswith(group) and _decide(flat, [name], texts[k])]
            keys = [key for key in keys if key == name or key not in follows]
    size = f"{START}.num_examples"
    if MODEL in keys and size in keys and _decide(flat, [size], texts[MODEL]):
        keys.remove(MODEL)
    keys.sort(key=lambda key: key == SEED)
    return _told_apart(runs, keys, [{key: row.get(key) for key in keys} for row in flat])


def _told_apart(
    runs: Sequence[RunData], keys: list[str], rows: list[Row]
) -> tuple[list[str], list[Row]]:
    """Add ``RUN`` where finished runs of one setting and seed were scored on the same split."""
    alike: dict[tuple[str, str], list[int]] = {}
    for i, (run, row) in enumerate(zip(runs, rows, strict=True)):
        setting = _text(list(map(_text, row.values())))
        for split in (run.scores or [""]) if run.finished else ():
            alike.setdefault((setting, split), []).append(i)
    twice = {i for members in alike.values() if len(members) > 1 for i in members}
    if not twice:
        return keys, rows
    place = len(keys) - (SEED in keys)
    keys = [*keys[:place], RUN, *keys[place:]]
    names = {i: runs[i].name for i in twice}
    short = {i: _tail(n, [o for k, o in names.items() if k != i]) for i, n in names.items()}
    named = [{**row, RUN: short.get(i)} for i, row in enumerate(rows)]
    return keys, [{key: row[key] for key in keys} for row in named]


def settings_of(runs: Sequence[RunData]) -> list[RunData]:
    """Keep the finished runs; of these only the scored ones, if any run was scored."""
    finished = [run for run in runs if run.finished]
    return [run for run in finished if run.scores] or finished


def in_order(runs: Sequence[RunData]) -> list[RunData]:
    """Sort runs by their values of the keys that differ, numbers before words, the seed last."""
    _, values = differing(runs)
    rank = [[_rank(value) for value in row.values()] for row in values]
    return [runs[i] for i in sorted(range(len(runs)), key=lambda i: rank[i])]


def label(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    """Name a setting by the last part of its keys: ``format=0.5, beta=0``."""
    tails = [key.rsplit(".", 1)[-1] for key in keys]
    parts = []
    for key, tail in zip(keys, tails, strict=True):
        name = tail if tails.count(tail) == 1 else key
        if tail in UNSAID:
            name = key.rsplit(".", 1)[0]
        if key != RUN or row[key] is not None:
            parts.append(f"{'run' if key == RUN else name}={_text(row[key])}")
    return ", ".join(parts) or "all runs"


def setting_names(rows: Sequence[Row], keys: Sequence[str], *, limit: int) -> list[str]:
    """Name the setting of each row for a figure.

    If names with all keys are longer than a limit, keys that are not needed to distinguish the
    settings are left out, beginning with the last.

    Args:
        rows: Values of the keys.
        keys: Those that differ, without the seed.
        limit: Characters that a name may have before keys are left out.
    """
    names = [label(row, keys) for row in rows]
    if max(map(len, names), default=0) <= limit:
        return names
    needed = list(keys)
    for key in reversed(keys):
        fewer = [k for k in needed if k != key]
        if len({label(row, fewer) for row in rows}) == len(set(names)):
            needed = fewer
    return [label(row, needed) for row in rows]


def _flat(run: RunData) -> Row:
    """Map dotted keys to the values that affect a run; drop its start's repeated overrides."""
    out: Row = {}

    def walk(value: Any, key: str) -> None:
        if isinstance(value, Mapping) and value:
            for name, below in value.items():
                walk(below, f"{key}.{name}" if key else name)
        elif not NOT_SETTINGS.match(key) and (trains or not OF_TRAINING.match(key)):
            out[key] = json.dumps(value) if isinstance(value, list | dict) else value

    config = run.record["config"]
    trains = config["task"]["name"] == "train"
    walk(whole_numbers({k: v for k, v in config.items() if k not in NOT_IDENTITY}), "")
    start = out.pop(f"{START}.overrides", None)
    texts = json.loads(start) if start is not None else []
    if texts and out[f"{START}.num_examples"] != 0:
        out[START] = json.dumps([text for text in texts if not _restates(text, out)])
        out[MODEL] = "from the start"  # the start's overrides and size identify it
    elif isinstance(out.get(MODEL), str):
        out[MODEL] = _stage_of(run, out[MODEL]) or out[MODEL]
    return out


def _stage_of(run: RunData, path: str) -> str | None:
    """Return the stage of the run's own pipeline that wrote a checkpoint, or None."""
    parts = Path(path).parts
    own = len(parts) > 2 and parts[-1] == "checkpoint" and parts[-3] in run.folder.parts[:-1]
    return parts[-2] if own else None


def _short_models(flat: Sequence[Row]) -> list[str | None]:
    """Shorten the paths of models to as many last parts as distinguish them."""
    paths = {row[MODEL] for row in flat if isinstance(row.get(MODEL), str)}
    runs = {path: CHECKPOINT.sub("", path) for path in paths}
    ends = runs if len({*runs.values()}) == len(paths) else {path: path for path in paths}
    short = {path: _tail(end, [e for e in ends.values() if e != end]) for path, end in ends.items()}
    return [short.get(row.get(MODEL), row.get(MODEL)) for row in flat]


def _tail(path: str, others: Sequence[str]) -> str:
    """Return the last parts of a path that no other path ends in, not beginning at a run's time."""
    parts = [part for part in path.split("/") if part] or [path]
    for count in range(1, len(parts)):
        end = parts[-count:]
        is_told = all(other.split("/")[-count:] != end for other in others)
        if is_told and not RUN_TIME.match(end[0]):
            return "/".join(end)
    return path


def _decide(rows: Sequence[Row], keys: Sequence[str], values: Sequence[Any]) -> bool:
    """Check whether the values of some keys determine another value in all rows."""
    seen: dict[tuple[str, ...], Any] = {}
    sources = [tuple(_text(row.get(key)) for key in keys) for row in rows]
    return all(seen.setdefault(s, v) == v for s, v in zip(sources, values, strict=True))


def _restates(override: str, flat: Row) -> bool:
    """Check whether a start's override repeats the run's own value, or names an output folder."""
    key, _, value = override.partition("=")
    own = flat.get(key, flat.get(f"{key}.name"))
    return key.startswith("paths.") or (own is not None and _text(own) == value)


def _rank(value: Any) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float)
    return not is_number, float(value) if is_number else 0.0, _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
