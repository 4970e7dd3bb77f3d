"""Makes what a run starts from, once, and then does the run.

Runs of a sweep need the same cold start. Whichever comes first makes it, under a lock that the
system lifts when its holder dies; the others wait for it or find it there.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

from omni_rlvr.parts import Parts, StartedParts
from omni_rlvr.record import finished_config


def run_from_start(parts: StartedParts, run: Callable[[Parts], None]) -> None:
    """Trains the start unless it is there, then does what starts from it.

    Args:
        parts: both runs, not built yet.
        run: does one run's task.
    """
    folder = parts.start.run_dir
    with _locked(folder):
        if finished_config(folder) is None:
            print(f"start: {folder} is made first; other runs will find it there", flush=True)
            run(parts.build_start())
        else:
            print(f"start: {folder}", flush=True)
    run(parts.build())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lets one process in at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"start: another run is making {folder}; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
