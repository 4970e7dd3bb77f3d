"""The job that a launched process receives, and the outcome that it returns, both pickled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """The part of a task that one rank does."""

    config: Any
    """The composed config, resolved."""
    run_dir: Path
    latest: Path | None
    rank: int
    num_ranks: int
    folder: Path
    """The folder through which the ranks connect, and where each leaves its outcome."""
    command: Sequence[str]
    """The command line of the user, for run.json."""
    log_files: Sequence[str]
    """Files that rank 0 logs to, besides the terminal."""


@dataclass(frozen=True)
class Outcome:
    """How a rank ended."""

    kind: str
    """"finished", "interrupted" (stopped cleanly when asked), "cut" (stopped at once), "user" (a
    UserError) or "failed"."""
    name: str
    """The class of the exception."""
    message: str
    traceback: str
    at: float
    """Seconds since the epoch; the earliest failure counts as the cause of the others."""

    @property
    def ends_others(self) -> bool:
        """Whether the other ranks cannot go on."""
        return self.kind in ("cut", "user", "failed")


def outcome_file(folder: Path, rank: int) -> Path:
    """Return the file that holds the outcome of a rank once it has ended."""
    return folder / f"rank_{rank}.pickle"


def hung_file(folder: Path, rank: int) -> Path:
    """Return the file that holds the message about a rank that hung and was ended."""
    return folder / f"rank_{rank}.hung"
