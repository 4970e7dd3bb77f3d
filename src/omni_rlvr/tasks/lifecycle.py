"""The start and the end of a run: its lock, its run.json, and the link to the latest run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from omni_rlvr import distributed, stopping
from omni_rlvr.assembly.composed import Place
from omni_rlvr.folders import DISK_ERRORS, disk_error
from omni_rlvr.lock import IN_USE, FolderLock
from omni_rlvr.pointers import clear_way, point_to
from omni_rlvr.ranks import failure
from omni_rlvr.record import RunRecord, close_record, say_failed, writing_to
from omni_rlvr.rewards.watchdog.time_limit import reported_in
from omni_rlvr.types import Interrupted, UserError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def recorded(place: Place, *, device: str) -> Iterator[RunRecord]:
    """Lock the run's folder and open run.json; if the task does not finish, record there why.

    Raises:
        FolderInUse: Another process is writing this run.
        UserError: The disk is full, or a folder cannot be written.
    """
    first = distributed.is_first()
    with contextlib.ExitStack() as stack:
        if first:
            with writing_to(place.run_dir):
                stack.enter_context(FolderLock(place.run_dir, IN_USE))
        stack.enter_context(reported_in(run_dir=place.run_dir))
        record = RunRecord(place.run_dir, place.config, device=device, writes=first)
        try:
            if place.latest is not None and first:
                clear_way(place.latest, place.run_dir)
            with stopping.without_exit():
                yield record
            record.finish("finished")
        except BaseException as error:
            # if one rank fails, torchrun and elastic ask the others to stop: record only its error
            with contextlib.suppress(stopping.Stopped), stopping.whole():
                _close(record, error)
            full = disk_error(error)
            if full is None or full.errno not in DISK_ERRORS:
                raise
            raise UserError(
                f"{full.filename or place.run_dir}: {full.strerror}; make room there, or set "
                "paths.output_root=DIR"
            ) from error


def _close(record: RunRecord, error: BaseException) -> None:
    """Record in run.json that a run was interrupted or failed.

    The rank that failed first records it too: rank 0 may be ended before it can.
    """
    text, is_mine = "", True
    if not isinstance(
        error, Interrupted
    ):  # if interrupted, all ranks stop together and none has failed
        text, is_mine = failure.cause_of(error, record.folder)
    stopped = not text or failure.is_stop(text)
    end = ("interrupted", None) if stopped else ("failed", text)
    try:
        if record.writes:
            record.update(error=end[1])
            record.finish(end[0])
        elif is_mine and not stopped:
            close_record(record.folder, *end)
    except OSError as second:  # the disk is full; the user must see the first error
        log.warning("run.json could not be updated: %s", second)
        if record.writes and not stopped:
            with contextlib.suppress(OSError):
                say_failed(record.folder)


def move_latest(place: Place) -> None:
    """Point the link ``latest`` at this run, if the run has such a link."""
    if place.latest is not None and distributed.is_first():
        point_to(place.latest, place.run_dir)
