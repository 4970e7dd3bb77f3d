"""What a run leaves behind: run.json, metrics.jsonl, completions.jsonl, and safe ways to write.

run.json says how the run can be repeated and how it ended; a file that is replaced is written
beside itself and renamed, so that a kill leaves the old one or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path

from omni_rlvr.lock import FolderLock as FolderLock
from omni_rlvr.types import UserError

PACKAGES = (
    "omni-rlvr",
    "torch",
    "transformers",
    "peft",
    "pytorch-lightning",
    "hydra-core",
    "omegaconf",
    "decord",
    "av",
    "numpy",
)
FORKS = {"decord": ("eva-decord",)}
"""Packages that install a module of the same name in another's place."""


def write_json(path: Path, value: object) -> None:
    """Replaces a JSON file in one step."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_json(path: Path) -> dict:
    """Reads a JSON object."""
    return json.loads(path.read_text(encoding="utf-8"))


def append_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Adds a line per row; NaN becomes null."""
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({k: plain(v) for k, v in row.items()}, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> list[dict]:
    """Reads a file of JSON lines; no file is no lines."""
    return [json.loads(line) for line in _lines(path)] if path.exists() else []


def _lines(path: Path) -> list[str]:
    """Lines as we end them; a completion may hold other signs that ``splitlines`` splits at."""
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line]


NOT_IDENTITY = ("paths", "resume", "runs", "logger", "callbacks")
"""Groups of a config that say where and how a run is written down, not what it computes."""


def identity(config: Mapping[str, object]) -> str:
    """Names what a run computes by 12 hex digits: equal for equal resolved configs."""
    counted = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    text = json.dumps(whole_numbers(counted), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def whole_numbers(value: object) -> object:
    """Turns 1.0 into 1, in a config and all below it: ``weight=1`` and a default of 1.0 are one."""
    if isinstance(value, Mapping):
        return {key: whole_numbers(below) for key, below in value.items()}
    if isinstance(value, list):
        return [whole_numbers(below) for below in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def finished_config(folder: Path) -> dict | None:
    """Reads the config of a run that finished; None for a folder without one."""
    try:
        record = read_json(folder / "run.json")
    except (OSError, json.JSONDecodeError):
        return None
    return record["config"] if record["status"] == "finished" else None


def keep_steps(path: Path, last_step: int) -> None:
    """Drops lines of later steps: what a resumed run will do again. A torn last line goes too."""
    if not path.exists():
        return
    kept = []
    for line in _lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # a kill in mid-line; nothing after it
            break
        if row["step"] <= last_step:
            kept.append(line + "\n")
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(kept), encoding="utf-8")
    os.replace(partial, path)


def point_to(link: Path, target: Path) -> None:
    """Makes ``link`` a relative symbolic link to ``target``, in one step."""
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(os.path.relpath(target, link.parent))
    os.replace(partial, link)


def close_record(folder: Path, status: str, error: str | None) -> None:
    """Says in run.json how a run ended whose own process could not, or knew only half of it."""
    if (folder / "run.json").exists():
        ended = datetime.now().isoformat(timespec="seconds")
        fields = {**read_json(folder / "run.json"), "error": error, "status": status}
        write_json(folder / "run.json", {**fields, "ended": ended})


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Makes a run's folder, and says what is wrong where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to the output folder {folder}: {error.strerror}; set paths.output_root"
        ) from error


def version(name: str) -> str | None:
    """The version of an installed package; that of a fork bears its name; None without either."""
    for package in (name, *FORKS.get(name, ())):
        try:
            found = metadata.version(package)
        except metadata.PackageNotFoundError:  # it is optional, or run from a checkout
            continue
        return found if package == name else f"{found} ({package})"
    return None


class RunRecord:
    """The folder of one run."""

    def __init__(
        self, folder: Path, config: Mapping[str, object], *, device: str, writes: bool = True
    ):
        """Opens the folder and writes run.json with status "running".

        Args:
            folder: the run's.
            config: resolved.
            device: what it runs on.
            writes: False keeps all in memory: of several ranks one writes.

        Raises:
            UserError: the folder cannot be written.
        """
        self.folder = folder
        self.writes = writes
        self.fields: dict[str, object] = {
            "status": "running",
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "started": datetime.now().isoformat(timespec="seconds"),
            "seed": config["seed"],
            "commit": _commit(),
            "versions": {name: version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "device": device,
            "skipped_clips": _skipped_before(folder / "run.json"),
            "config": config,
        }
        with writing_to(folder):
            self.update()

    def update(self, **fields: object) -> None:
        """Sets fields of run.json and writes it."""
        self.fields.update(fields)
        if self.writes:
            write_json(self.folder / "run.json", self.fields)

    def add_skipped(self, clips: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Adds clips that could not be read, once each: (id, reason); returns the new ones."""
        known = self.fields["skipped_clips"]
        assert isinstance(known, list)
        new = [{"id": i, "reason": why} for i, why in clips if all(row["id"] != i for row in known)]
        if new:
            self.update(skipped_clips=[*known, *new])
        return [(row["id"], row["reason"]) for row in new]

    def log(self, file: str, rows: Iterable[Mapping[str, object]]) -> None:
        """Appends rows to a .jsonl file of the run."""
        if self.writes:
            append_jsonl(self.folder / file, rows)

    def finish(self, status: str) -> None:
        """Says how the run ended: "finished", "interrupted" or "failed"."""
        self.update(status=status, ended=datetime.now().isoformat(timespec="seconds"))


def _skipped_before(path: Path) -> list[dict[str, str]]:
    """What the part of a run before its stop could not read; nothing for a new run."""
    return read_json(path)["skipped_clips"] if path.exists() else []


def _commit() -> str | None:
    """The commit this code was run from, with "+" when changed; None outside a checkout."""
    here = Path(__file__).parent
    try:
        out = subprocess.run(
            [
                "git",
                "-C",
                str(here),
                "describe",
                "--always",
                "--dirty=+",
                "--abbrev=12",
                "--exclude=*",
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):  # no git, or an installed package
        return None
    return out.stdout.strip()


def plain(value: object) -> object:
    """Turns a number that JSON does not know, NaN or infinite, into None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
