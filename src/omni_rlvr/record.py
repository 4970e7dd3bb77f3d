"""Read and write the files of a run: run.json, metrics.jsonl, completions.jsonl.

run.json says how the run can be repeated and how it ended. A file is replaced by writing a new one
beside it and renaming that, so that a killed process leaves the old or the new file, never a part.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from omni_rlvr.folders import write_file
from omni_rlvr.types import ClipNote, UserError

log = logging.getLogger(__name__)

MOVED = {
    "omni_rlvr.data.labels": "omni_rlvr.data.annotations.labels",
    "omni_rlvr.models.compose": "omni_rlvr.models.loading.from_parts",
    "omni_rlvr.models.load": "omni_rlvr.models.loading.load",
    "omni_rlvr.models.options": "omni_rlvr.config.loading",
    "omni_rlvr.rewards.as_published": "omni_rlvr.rewards.r1_omni",
    "omni_rlvr.rewards.judge": "omni_rlvr.rewards.callables",
    "omni_rlvr.rollout.decode": "omni_rlvr.rollout.shared_prefix",
    "omni_rlvr.rollout.generate": "omni_rlvr.rollout.hf",
    "omni_rlvr.training.completions_table": "omni_rlvr.training.loggers",
    "omni_rlvr.training.probe": "omni_rlvr.tasks.attribute.probe",
    "omni_rlvr.training.trackers": "omni_rlvr.training.loggers",
}
"""Modules that a ``_target_`` could name in an earlier version, and where they are now."""
REPLACED = {
    "omni_rlvr.rollout.hf.generate": "omni_rlvr.rollout.hf.Generate",
    "omni_rlvr.rollout.shared_prefix.decode": "omni_rlvr.rollout.shared_prefix.SharedPrefix",
    "omni_rlvr.training.loggers.metrics_csv": "omni_rlvr.training.loggers.MetricsCsv",
    "omni_rlvr.training.loggers.mlflow": "pytorch_lightning.loggers.MLFlowLogger",
    "omni_rlvr.training.loggers.tensorboard": "pytorch_lightning.loggers.TensorBoardLogger",
    "omni_rlvr.training.loggers.trackio": "omni_rlvr.training.loggers.TrackioLogger",
    "omni_rlvr.training.loggers.wandb": "pytorch_lightning.loggers.WandbLogger",
}
"""Former name in a present module -> the name that replaced it, with the same options."""
NOW_OBJECTS = ("omni_rlvr.rollout.hf.generate", "omni_rlvr.rollout.shared_prefix.decode")
"""Functions that configs named with ``_partial_: true`` before a class replaced them."""
ALL_LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""The default of ``lora.targets`` before each model had its own; older models keep this default."""
SCORES = ("war", "uar", "weighted_f1", "chosen_war", "format")
"""The scores in an evaluation's metrics.json that tables and loggers show, in this order. Those of
questions lack ``weighted_f1``; ``chosen_war`` is there where labels are scored."""
_NAMED = 5
"""Largest number of line numbers in a message."""
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
    """Replace a JSON file in one step."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    write_file(path, f"{text}\n".encode(errors="backslashreplace"))  # JSON's own form of surrogates


def read_json(path: Path) -> dict:
    """Read a JSON object."""
    return json.loads(path.read_text(encoding="utf-8"))


STOPPED = ("interrupted", "running")
"""The values of ``status`` in run.json if a run was stopped by its user, or killed."""


def read_record(folder: Path) -> dict:
    """Read a run's run.json.

    Raises:
        UserError: the file is missing, empty, cut short, or was not written by a run.
    """
    path = folder / "run.json"
    try:
        record = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        empty = path.is_file() and not path.read_bytes().strip(b"\0 \n")
        why = "it is empty" if empty else " ".join(str(error).split())
        raise UserError(f"{path} cannot be read: {why}") from error
    if not isinstance(record, dict) or not {"config", "status"} <= {*record}:
        raise UserError(f"{path} cannot be read: it was not written by a run")
    return {**record, "config": with_present_targets(record["config"])}


def with_present_targets(config: Any) -> Any:
    """Replace every ``_target_`` in a run's config by its present name.

    Only the names have changed, so a run of an earlier version is compared, resumed and skipped as
    if it had been started with the present names.
    """
    if isinstance(config, list):
        return [with_present_targets(value) for value in config]
    if not isinstance(config, dict):
        return config
    present = {key: with_present_targets(value) for key, value in config.items()}
    if isinstance(target := present.get("_target_"), str):
        module, _, name = target.rpartition(".")
        moved = f"{MOVED.get(module, module)}.{name}" if module else target
        present["_target_"] = REPLACED.get(moved, moved)
        if moved in NOW_OBJECTS:
            present.pop("_partial_", None)
    lora = present.get("lora")
    if isinstance(lora, dict) and "target_parameters" not in lora:  # written before that option
        present["lora"] = lora | {"target_parameters": []}
        if lora.get("targets") == ALL_LORA_TARGETS:
            present["lora"]["targets"] = None
    return present


def find_record(folder: Path) -> dict | None:
    """Read a run's run.json; None where it is missing or cannot be read."""
    try:
        return read_record(folder)
    except UserError:
        return None


def append_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Add one line for each row; NaN becomes null."""
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        for row in rows:
            file.write(json.dumps({k: plain(v) for k, v in row.items()}, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> list[dict]:
    """Read a file of JSON lines; [] if there is no file. Invalid lines are named in the log."""
    rows, wrong = _rows(path)
    if wrong:
        log.warning("%s: %s: torn or foreign, left out", path, _lines(wrong))
    return [row for _, row in rows]


def _rows(path: Path) -> tuple[list[tuple[bytes, dict]], list[int]]:
    """Read JSON objects, one per line.

    Only "\\n" ends a line: a completion may hold other characters that ``splitlines`` splits at.

    Returns:
        Each object with its line, and the numbers of invalid lines: torn when a process was killed,
        filled with zero bytes by a power cut, or written by another program.
    """
    good: list[tuple[bytes, dict]] = []
    wrong: list[int] = []
    content = path.read_bytes() if path.exists() else b""
    for number, line in enumerate(content.split(b"\n"), 1):
        text = line.strip(b"\0")
        try:
            row = json.loads(text.decode("utf-8-sig")) if text.strip() else None
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            good.append((text, row))
        elif line.strip():
            wrong.append(number)
    return good, wrong


def _lines(numbers: list[int]) -> str:
    """Name lines by number, only the first few if there are many."""
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f"line {', '.join(map(str, numbers[:_NAMED]))}{more}"


NOT_IDENTITY = ("paths", "resume", "runs", "logger", "callbacks")
"""Groups of a config that say where and how a run is recorded, not what it computes."""


def identity(config: Mapping[str, object]) -> str:
    """Name what a run computes by 12 hex digits: equal for equal resolved configs."""
    counted = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    text = json.dumps(whole_numbers(counted), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def whole_numbers(value: object) -> object:
    """Turn 1.0 into 1 at every level of a config, so that ``weight=1`` equals a default of 1.0."""
    if isinstance(value, Mapping):
        return {key: whole_numbers(below) for key, below in value.items()}
    if isinstance(value, list):
        return [whole_numbers(below) for below in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def finished_config(folder: Path) -> dict | None:
    """Read the config of a run that finished; None for a folder without one."""
    record = find_record(folder)
    return record["config"] if record is not None and record["status"] == "finished" else None


def keep_steps(path: Path, last_step: int) -> None:
    """Drop the lines of later steps, which a resumed run does again.

    Invalid lines and lines without a step are dropped too; the log names them.
    """
    if not path.exists():
        return
    rows, wrong = _rows(path)
    stepped = [(line, row["step"]) for line, row in rows if type(row.get("step")) is int]
    some = [_lines(wrong)] if wrong else []
    if stepless := len(rows) - len(stepped):
        some.append(f"{stepless} without a step")
    if some:
        log.warning("%s: %s: torn or foreign, cut off", path, " and ".join(some))
    write_file(path, b"".join(line + b"\n" for line, step in stepped if step <= last_step))


def close_record(folder: Path, status: str, error: str | None) -> None:
    """Write into run.json how a run ended, if its own process could not or did not know."""
    if (folder / "run.json").exists():
        fields = {**read_record(folder), "error": error, "status": status}
        write_json(folder / "run.json", {**fields, "ended": _now()})


@contextlib.contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Make a run's folder, and say what is wrong where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to the output folder {folder}: {error.strerror}; set paths.output_root"
        ) from error


def say_failed(folder: Path) -> None:
    """Set the status in run.json to failed in place, if the disk has no room for a new file."""
    path = folder / "run.json"
    before = path.read_bytes()
    after = before.replace(b'"status": "running"', b'"status": "failed" ', 1)  # as many bytes
    with path.open("r+b") as file:
        file.write(after)


def version(name: str) -> str | None:
    """Return the version of a package, or of its fork with the fork's name; None without either."""
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
        """Open the folder and write run.json with status "running".

        Args:
            folder: the folder of the run.
            config: the resolved config.
            device: the name of the device that it runs on.
            writes: whether this process writes; False, on all ranks but one, keeps all in memory.

        Raises:
            UserError: the folder cannot be written.
        """
        self.folder = folder
        self.writes = writes
        before = read_record(folder) if (folder / "run.json").exists() else {}  # of a resumed run
        self.fields: dict[str, object] = {
            "status": "running",
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "started": _now(),
            "seed": config["seed"],
            "commit": _commit(),
            "versions": {name: version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "device": device,
            "skipped_clips": before.get("skipped_clips", []),
            "clip_notes": before.get("clip_notes", []),
            "trackers": before.get("trackers", {}),
            "config": config,
        }
        with writing_to(folder):
            self.update()

    def update(self, **fields: object) -> None:
        """Set fields of run.json and write it."""
        self.fields.update(fields)
        if self.writes:
            write_json(self.folder / "run.json", self.fields)

    def add_skipped(self, clips: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Add clips that could not be read, once each: (id, reason); return the new ones."""
        known = self.fields["skipped_clips"]
        assert isinstance(known, list)
        new = [{"id": i, "reason": why} for i, why in clips if all(row["id"] != i for row in known)]
        if new:
            self.update(skipped_clips=[*known, *new])
        return [(row["id"], row["reason"]) for row in new]

    def add_notes(self, notes: Iterable[tuple[str, ClipNote]]) -> None:
        """Add notes on clips to run.json, each kind once per clip: (id, note).

        The first note of each kind is also logged as a warning.
        """
        known = self.fields["clip_notes"]
        assert isinstance(known, list)
        seen, kinds = {(row["id"], row["kind"]) for row in known}, {row["kind"] for row in known}
        new = {(i, note.kind): note for i, note in notes if (i, note.kind) not in seen}
        for (clip_id, kind), note in new.items():
            if kind not in kinds and self.writes:
                text = "clip %s: %s; run.json lists all such clips under clip_notes (%s)"
                log.warning(text, clip_id, note.text, kind)
            kinds.add(kind)
        if new:
            rows = [{"id": clip_id, **vars(note)} for (clip_id, _), note in new.items()]
            self.update(clip_notes=[*known, *rows])

    def log(self, file: str, rows: Iterable[Mapping[str, object]]) -> None:
        """Append rows to a .jsonl file of the run."""
        if self.writes:
            append_jsonl(self.folder / file, rows)

    def finish(self, status: str) -> None:
        """Record how the run ended: "finished", "interrupted" or "failed"."""
        self.update(status=status, ended=_now())


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _commit() -> str | None:
    """Name the commit of this code, with "+" if files are changed; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    here = Path(__file__).parent
    try:
        out = subprocess.check_output(
            command, cwd=here, stderr=subprocess.DEVNULL, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):  # no git, or an installed package
        return None
    return out.strip()


def plain(value: object) -> object:
    """Replace NaN and infinite numbers, which JSON does not have, by None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def leaves(config: Any, key: str = "") -> dict[str, Any]:
    """Map the full key of each value to the value."""
    if not isinstance(config, Mapping) or not config:
        return {key: config}
    return {
        name: value
        for below in config
        for name, value in leaves(config[below], f"{key}.{below}".lstrip(".")).items()
    }
