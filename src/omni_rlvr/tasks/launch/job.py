"""What a launched process is handed, and what it hands back: plain values, pickled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One rank's part of a task."""

    config: Any
    """The composed config, resolved."""
    run_dir: Path
    latest: Path | None
    rank: int
    num_ranks: int
    folder: Path
    """Where the ranks meet, and where each leaves its outcome."""
    command: Sequence[str]
    """What the user gave, for run.json."""
    log_files: Sequence[str]
    """Files that rank 0's log goes to, besides the terminal."""


@dataclass(frozen=True)
class Outcome:
    """How a rank ended."""

    kind: str
    """"finished", "interrupted" (as asked, in its own time), "cut" (at once), "user" (a UserError)
    or "failed"."""
    name: str
    """The exception's class."""
    message: str
    traceback: str
    at: float
    """Seconds since the epoch; the first failure is the cause of the others."""

    @property
    def ends_others(self) -> bool:
        """Whether the other ranks cannot go on."""
        return self.kind in ("cut", "user", "failed")


def outcome_file(folder: Path, rank: int) -> Path:
    """Where a rank's outcome lies once it has ended."""
    return folder / f"rank_{rank}.pickle"


def hung_file(folder: Path, rank: int) -> Path:
    """Return where the message lies about a rank that hung and had to be ended."""
    return folder / f"rank_{rank}.hung"
