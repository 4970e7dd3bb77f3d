"""``latest`` and ``checkpoint``: names that lead to the newest run, and to its newest checkpoint.

Each is a relative symbolic link or, on a disk that has no links (exFAT, SMB, cloud drives), a small
file with the folder's path in one line. Copies and archives may turn a link into a folder or into a
file with its text, or drop it. All of these are followed, or reported.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from pathlib import Path, PurePosixPath

from omni_rlvr.folders import SUMS, check_sums
from omni_rlvr.lock import IN_USE, check_free
from omni_rlvr.types import UserError

log = logging.getLogger(__name__)

LATEST, CHECKPOINT = "latest", "checkpoint"
CHECKPOINTS = "checkpoints"
"""The folder of a run's checkpoints."""
TRAINER_STATE = "trainer_state.pt"
"""The file of a checkpoint that resuming needs, and loading does not."""
_STEP = re.compile(r"step_(\d+)(_\w+)?")
_LONGEST = 4096
"""Bytes of the longest path that a pointer file may hold."""
_STRAY_AFTER_S = 60.0
"""Age in seconds at which an unfinished file counts as left behind by a stopped process."""


def point_to(pointer: Path, target: Path) -> None:
    """Make ``pointer`` lead to ``target``, in one step: as a link if it can be, else as a file.

    Raises:
        OSError: neither can be made there.
    """
    if pointer.is_dir() and not pointer.is_symlink() and pointer.samefile(target):
        return  # the run is resumed in a copy of that name
    text = Path(os.path.relpath(target, pointer.parent)).as_posix()
    partial = pointer.with_name(f".{pointer.name}.{os.getpid()}")
    try:
        partial.unlink(missing_ok=True)
        if not _link(partial, text):
            partial.write_text(f"{text}\n", encoding="utf-8")
        os.replace(partial, pointer)
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to report
            partial.unlink(missing_ok=True)


def _link(path: Path, text: str) -> bool:
    """Make a symbolic link; False if the disk has none, or makes something else."""
    try:
        path.symlink_to(text)
    except (OSError, NotImplementedError):
        return False
    if path.is_symlink() and str(path.readlink()) == text:
        return True
    path.unlink(missing_ok=True)
    return False


def follow(path: Path) -> Path:
    """Resolve each pointer in a path, as the system resolves links when it opens a file.

    Args:
        path: e.g. ``outputs/rlvr/latest/checkpoint``.

    Returns:
        The path without pointer files; a pointer that leads nowhere stays in it.
    """
    out = Path()
    for part in path.parts:
        out = out / part
        if part == LATEST and not out.is_dir():
            out = _led_to(out, "") or out
        elif part == CHECKPOINT and not out.is_dir():
            out = _led_to(out, CHECKPOINTS) or _newest(out) or out
    return out


def problem(path: Path) -> str:
    """Say which pointer in a path leads nowhere, as an addition to a message; or nothing."""
    for pointer in (path, *path.parents):
        text = _text(pointer) if pointer.name in (LATEST, CHECKPOINT) else None
        if text is not None and not follow(pointer).is_dir():
            return f"; {pointer} leads to {text}, and there is no such folder"
    return ""


def step_of(checkpoint: Path) -> int | None:
    """Return the step that a checkpoint's folder is named after; None for another folder."""
    match = _STEP.fullmatch(checkpoint.name)
    return int(match[1]) if match else None


def checkpoints_of(run: Path) -> list[Path]:
    """Return a run's checkpoints, newest first."""
    steps = [
        (step, folder.stat().st_mtime_ns, folder)
        for folder in _folders(run / CHECKPOINTS)
        if (step := step_of(folder)) is not None
    ]
    return [folder for *_, folder in sorted(steps, reverse=True)]


def step_folder(run: Path, step: int) -> Path:
    """Name the folder of a run's checkpoint after a step, as ``step_of`` reads it."""
    return run / CHECKPOINTS / f"step_{step:06d}"


def newest_run(home: Path) -> Path | None:
    """Find the run of an experiment's folder that has a checkpoint and began last, by its name."""
    return max((run for run in _folders(home) if checkpoints_of(run)), default=None)


def clear_way(pointer: Path, target: Path) -> None:
    """Check before a run does its work that its pointer can be made, and clear its place.

    A folder in its place, which a copy made of the pointer, is moved to a name of its own.

    Args:
        pointer: the future ``latest`` or ``checkpoint``.
        target: the folder that it will lead to.

    Raises:
        UserError: a file of another kind is in its place, or no pointer can be made.
    """
    try:
        _remove_strays(pointer)
        if pointer.is_dir() and not pointer.is_symlink():
            if target.exists() and pointer.samefile(target):
                return  # the run is resumed in a copy of that name, and needs no pointer
            check_free(pointer, IN_USE)
            new = _free_name(pointer)
            pointer.rename(new)
            point_to(pointer, new)
            log.warning("%s was a folder instead of a link (a copy?); moved it to %s", pointer, new)
        elif pointer.exists() and pointer.stat().st_size and _text(pointer) is None:
            raise UserError(
                f"{pointer} is in the way: a name that leads to a folder will be written there; "
                "move that file elsewhere"
            )
        elif (text := _text(pointer)) is not None and not follow(pointer).is_dir():
            log.warning("%s led to %s, which is not there; it will be replaced", pointer, text)
        trial = pointer.with_name(f".{pointer.name}.trial")
        point_to(trial, target)
        if not trial.is_symlink():
            log.info("%s: no symbolic links there; %s will be a file", pointer.parent, pointer.name)
        trial.unlink()
    except OSError as error:
        raise UserError(
            f"{pointer} cannot be written: {error.strerror}; set paths.output_root=DIR"
        ) from error


def run_of(place: Path) -> Path:
    """Return the run that a path leads to, be it the run's folder or one of its checkpoints."""
    place = follow(place)
    if place.parent.name == CHECKPOINTS:
        return place.parent.parent
    return place.parent if place.name == CHECKPOINT else place


def whole_before(checkpoint: Path) -> Path | None:
    """Return the newest other checkpoint of the same run whose files are intact."""
    seen = checkpoint.resolve()
    if seen.parent.name != CHECKPOINTS:
        return None
    others = (other for other in checkpoints_of(seen.parent.parent) if other != seen)
    return next((o for o in others if (o / SUMS).exists() and check_sums(o) is None), None)


def _free_name(latest: Path) -> Path:
    """Choose a name for the folder that a copy made of ``latest``: when its run began."""
    try:
        started = json.loads((latest / "run.json").read_text(encoding="utf-8"))["started"]
        name = re.sub("[^0-9_-]", "-", str(started).replace("T", "_"))
    except (OSError, ValueError, KeyError, TypeError):
        name = "copied"
    number = 0
    while (free := latest.with_name(f"{name}_{number}" if number else name)).exists():
        number += 1
    return free


def _remove_strays(pointer: Path) -> None:
    """Remove files that a process left when it was killed in ``point_to``; only name folders."""
    for stray in pointer.parent.glob(f".{pointer.name}.*"):
        if stray.is_dir() and not stray.is_symlink():
            log.warning("%s is the copy of an unfinished link and can be deleted", stray)
        elif time.time() - stray.lstat().st_mtime > _STRAY_AFTER_S:
            stray.unlink(missing_ok=True)


def _text(pointer: Path) -> str | None:
    """Read where a link or a pointer file leads, as it is written; None for anything else."""
    if pointer.is_symlink():
        return str(pointer.readlink())
    if not pointer.is_file() or pointer.stat().st_size > _LONGEST:
        return None
    try:
        lines = pointer.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        return None
    return lines[0] if len(lines) == 1 and lines[0].strip() and "\0" not in lines[0] else None


def _led_to(pointer: Path, folder: str) -> Path | None:
    """Return the folder that a pointer leads to, or one of the same name where it should be.

    The pointer may have been written on another machine, or before the folders were moved.
    """
    text = _text(pointer)
    if text is None:
        return None
    there = pointer.parent / text
    moved = pointer.parent / folder / PurePosixPath(text.replace("\\", "/")).name
    return next((found for found in (there, moved) if found.is_dir()), None)


def _newest(checkpoint: Path) -> Path | None:
    """Return the newest checkpoint of a run whose pointer to it was lost."""
    found = next(iter(checkpoints_of(checkpoint.parent)), None)
    if found is not None:
        log.warning("%s leads nowhere; using %s, the newest one there", checkpoint, found)
    return found


def _folders(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.is_dir()] if place.is_dir() else []
