"""Makes what a run starts from, once, and then does the run.

Runs of a sweep need the same cold start. Whichever comes first makes it, under a lock; the
others wait for it or find it there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from omni_rlvr.assembly.parts import Parts, StartedParts
from omni_rlvr.lock import FolderInUse, FolderLock
from omni_rlvr.record import finished_config

LOOK_EVERY_S = 1.0
"""Seconds between looks at a lock that another run holds."""


def run_from_start(parts: StartedParts, run: Callable[[Parts], None]) -> None:
    """Trains the start unless it is there, then does what starts from it.

    Args:
        parts: both runs, not built yet.
        run: does one run's task.
    """
    folder = parts.start.run_dir
    with locked(folder):
        if finished_config(folder) is None:
            print(f"start: {folder} is made first; other runs will find it there", flush=True)
            run(parts.build_start())
        else:
            print(f"start: {folder}", flush=True)
    run(parts.build())


def locked(folder: Path) -> FolderLock:
    """Take the lock of a folder as soon as no other run has it."""
    folder.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        try:
            return FolderLock(folder, "it will be found there")
        except FolderInUse as held:
            if not told:
                print(f"start: another run is making {folder}; waiting for it ({held})", flush=True)
            told = True
            time.sleep(LOOK_EVERY_S)
