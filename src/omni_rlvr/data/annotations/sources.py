"""Which annotation files to read, and how much of each: one file, or a YAML mixture of files.

A mixture is ``datasets: [{json_path, sampling_strategy}]`` with paths relative to the YAML file. A
strategy is ``all`` (also when left out), ``first:N``, ``end:N`` or ``random:N``; a percentage is
rounded up. The annotation files themselves are not read here.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from omni_rlvr.data.annotations.rows import SUFFIXES, read_text
from omni_rlvr.types import UserError

_STRATEGY = re.compile(r"(first|end|random):([0-9]{1,15})(%?)")
_STRATEGIES = "all, first:N, end:N, random:N (N a count, or a percentage as in 10%)"
_MIXTURES = (".yaml", ".yml")


@dataclass(frozen=True)
class Source:
    """An annotation file and which of its rows to take."""

    path: Path
    strategy: object
    where: str
    """The entry of the mixture, for messages."""
    seed: str
    """Decides what ``random:N`` draws."""

    def pick(self, num_rows: int) -> Sequence[int]:
        """Return the rows taken, in file order.

        Raises:
            UserError: The strategy is unknown, or asks for no row or for more rows than there are.
        """
        if self.strategy == "all":
            return range(num_rows)
        match = _STRATEGY.fullmatch(self.strategy) if isinstance(self.strategy, str) else None
        if match is None:
            raise UserError(
                f"{self.where}: unknown sampling_strategy {self.strategy!r}; known: {_STRATEGIES}"
            )
        kind, number, percent = match[1], int(match[2]), bool(match[3])
        count = -(-number * num_rows // 100) if percent else number
        if not 1 <= count <= num_rows:
            raise UserError(
                f"{self.where}: sampling_strategy {self.strategy!r} asks for {count} of "
                f"{num_rows} rows"
            )
        if kind == "random":
            return sorted(random.Random(self.seed).sample(range(num_rows), count))
        return range(count) if kind == "first" else range(num_rows - count, num_rows)


def sources(path: Path, *, seed: int) -> list[Source]:
    """List the files that an annotation file stands for.

    Args:
        path: A ``.json`` or ``.jsonl`` file, or a ``.yaml`` or ``.yml`` mixture.
        seed: Decides what ``random:N`` draws, together with the entry's place in the mixture.

    Raises:
        UserError: The file is of no known kind, or the mixture is not as described.
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return [Source(path, "all", str(path), "")]
    if suffix not in _MIXTURES:
        known = ", ".join((*SUFFIXES, *_MIXTURES))
        raise UserError(f"{path}: unknown kind of annotation file {suffix!r}; known: {known}")
    return [
        _source(path.parent, entry, f"{path}: datasets[{index}]", f"{seed}:{index}")
        for index, entry in enumerate(_entries(path))
    ]


def _entries(path: Path) -> list[object]:
    try:
        mixture = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(mixture, dict) or list(mixture) != ["datasets"]:
        raise UserError(
            f"{path}: a mixture has one key, datasets: a list of json_path, sampling_strategy"
        )
    entries = mixture["datasets"]
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: datasets is {entries!r}; it must be a list of at least one entry")
    return entries


def _source(folder: Path, entry: object, source: str, seed: str) -> Source:
    if not isinstance(entry, dict) or "json_path" not in entry:
        raise UserError(f"{source}: {entry!r} has no json_path")
    unknown = [key for key in entry if key not in ("json_path", "sampling_strategy")]
    if unknown:
        raise UserError(
            f"{source}: unknown key {unknown[0]!r}; known: json_path, sampling_strategy"
        )
    json_path = entry["json_path"]
    if not isinstance(json_path, str):
        raise UserError(f"{source}: json_path is {json_path!r}, not a string")
    if Path(json_path).suffix.lower() not in SUFFIXES:
        raise UserError(f"{source}: json_path {json_path!r} must end in .json or .jsonl")
    strategy = entry.get("sampling_strategy", "all")
    return Source(folder / json_path, strategy, source, seed)
