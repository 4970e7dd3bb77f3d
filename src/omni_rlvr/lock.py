"""Keeps a second process out of a folder, with a lock that says who holds it.

The lock is a file, ``.owner``, that is made exclusively. Every file system can do that; the
system's own locks (flock, lockf) are missing on some network and cloud disks, or hold on one
machine only. The lock of a process that is gone is taken over.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from omni_rlvr.types import UserError

log = logging.getLogger(__name__)

OWNER = ".owner"
IN_USE = "wait until it ends, or stop it (Ctrl-C saves)"
"""What to do about a run's folder that is held."""
SETTLE_S = 2.0
"""Seconds after which the writer of a lock file that names no owner counts as dead."""
LAUNCHER = "OMNI_RLVR_LAUNCHER"
"""Environment variable with the id of the process that launched this one for one of the devices."""
_held: dict[Path, int] = {}
"""The locks of this process, and how often it took each."""


class FolderInUse(UserError):
    """Another process that is alive, or on another machine, holds a folder."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a folder."""

    process: int
    host: str
    started: str
    """Its start time in the system's own units, which tells it from a later process of its id."""
    since: str
    command: str

    @classmethod
    def this_process(cls) -> Owner:
        """Describe this process."""
        return cls(
            process=os.getpid(),
            host=platform.node(),
            started=_started(os.getpid()) or "",
            since=datetime.now().astimezone().isoformat(timespec="seconds"),
            command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        )

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since} ({self.command})"

    @property
    def is_here(self) -> bool:
        """Whether it ran on this machine, so that it can be looked for."""
        return self.host == platform.node()

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended; of another machine nothing is known."""
        return self.is_here and _started(self.process) != self.started

    @property
    def is_ours(self) -> bool:
        """Whether it is this process, or the one that launched it for one device of several."""
        own = (str(os.getpid()), os.environ.get(LAUNCHER))
        return self.is_here and str(self.process) in own and not self.is_gone


class FolderLock:
    """Keeps other processes out of a folder as long as this one lives, or until ``release``.

    A process may take a lock that it holds already; the last release gives it up.
    """

    def __init__(self, folder: Path, advice: str):
        """Take the lock; the folder must exist.

        Args:
            folder: the folder to lock.
            advice: what a user can do if it is locked, for the message.

        Raises:
            FolderInUse: another process holds it; the message names the process, its machine and
                since when.
            OSError: the folder cannot be written.
        """
        self.path = folder.resolve() / OWNER
        while not (self.path in _held or _make(self.path)):
            owner = owner_of(self.path)
            if owner is not None and owner.is_ours:
                break
            _refuse(owner, folder, advice)
            remove_dead(self.path, owner)
        _held[self.path] = _held.get(self.path, 0) + 1

    def release(self) -> None:
        """Release the folder."""
        _held[self.path] -= 1
        if _held[self.path] == 0:
            del _held[self.path]
            _unlock(self.path)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def check_free(folder: Path, advice: str) -> None:
    """Refuse a folder that another process holds, without taking it.

    Raises:
        FolderInUse: the message names the process, its machine and since when.
    """
    _refuse(owner_of(folder / OWNER), folder, advice)


def _refuse(owner: Owner | None, folder: Path, advice: str) -> None:
    if owner is not None and not (owner.is_gone or owner.is_ours):
        unknown = (
            f"; whether it still runs cannot be seen from {platform.node()}: if it was killed, "
            f"delete {folder / OWNER} and start again"
        )
        more = "" if owner.is_here else unknown
        raise FolderInUse(f"{folder} is in use by {owner}; {advice}{more}")


def _make(path: Path) -> bool:
    """Make the lock file; False if there is one."""
    text = json.dumps(asdict(Owner.this_process()))
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except OSError:
        path.unlink()
        raise
    return True


@atexit.register
def _unlock_all() -> None:
    """Release what the process still holds when it ends; the locks of a killed one stay."""
    for path in _held:
        with contextlib.suppress(OSError):
            _unlock(path)


def _unlock(path: Path) -> None:
    owner = owner_of(path)
    if owner is not None and owner.process == os.getpid():  # a fork holds nothing
        path.unlink(missing_ok=True)


def owner_of(path: Path) -> Owner | None:
    """Read a lock file; None if there is none, or if it names no owner within ``SETTLE_S``."""
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until:
        try:
            return Owner(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):  # it is being written
            time.sleep(0.05)
    return None


def remove_dead(path: Path, dead: Owner | None) -> None:
    """Remove a dead owner's lock, unless another process has already taken it over."""
    aside = path.with_name(f"{OWNER}.{os.getpid()}")
    try:
        path.rename(aside)  # only one of several processes succeeds
    except FileNotFoundError:
        return
    moved = owner_of(aside)
    if moved == dead:
        log.info("%s: its lock is taken over; %s is gone", path.parent, dead or "its owner")
        aside.unlink()
    else:
        aside.rename(path)


def _started(process: int) -> str | None:
    """Read when a process started, in the system's own units; None if it no longer runs."""
    if not Path("/proc/self/stat").exists():
        return _shown_by_ps(process)
    try:
        # after the name, which may hold any character: the state, and 19 fields later the start
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None if fields[0] in "ZX" else f"{boot} {fields[19]}"


def _shown_by_ps(process: int) -> str | None:
    """Return the same as ``_started`` where there is no ``/proc``."""
    command = ["ps", "-o", "state=,lstart=", "-p", str(process)]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    except OSError:
        return None
    return " ".join(shown[1:]) if shown and not shown[0].startswith("Z") else None
