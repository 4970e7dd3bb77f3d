"""When ranks fail, the first one reports its error; the others exit silently.

The launcher ends the others: the agent of torch elastic (``trainer.devices=N``, torchrun) or
``srun --kill-on-bad-exit``. With gloo they also lose their connection to the failed rank; nothing
else ends the pods of a PyTorchJob. A rank writes its error into the store before its process, and
with it its connections, end. A rank that lost a connection therefore finds the cause in the store,
unless the other rank was killed.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from omni_rlvr.ranks import rendezvous
from omni_rlvr.ranks.rendezvous import FAILED, Rendezvous
from omni_rlvr.record import find_record
from omni_rlvr.types import Interrupted, UserError

SILENT_S = 2.0
"""Seconds that a rank that lost a connection waits for others that lost one too."""


def is_stop(text: str) -> bool:
    """Tell whether an error, as ``cause_of`` gives it, is a request to stop at once."""
    return text.startswith(("KeyboardInterrupt: ", "Stopped: "))


def cause_of(error: BaseException, run_dir: Path | None = None) -> tuple[str, bool]:
    """Agree with the other ranks on the error that ends the run: the first one of any rank.

    Args:
        error: The error of this rank.
        run_dir: The run's folder, once there is one.

    Returns:
        The error as ``class: message``, and whether this rank must report it.
    """
    here = rendezvous.here()
    if here is None:
        return f"{type(error).__name__}: {error}", True
    if here.cause is None:
        here.cause = _agreed_cause(here, error, run_dir)
    return here.cause


def _agreed_cause(here: Rendezvous, error: BaseException, run_dir: Path | None) -> tuple[str, bool]:
    from torch.distributed import DistError

    text, rank, lost = f"{type(error).__name__}: {error}", here.started.rank, is_loss(error)
    record = find_record(run_dir) if lost and run_dir is not None else None
    if record is not None and record["status"] == "failed":
        return record["error"], False  # of a reward that hung, or of rank 0, which held the store
    try:
        if lost and not here.store.check([FAILED]):
            text = f"UserError: the connection to {_silent(here)} was lost, and no rank said why; "
            text += f"was a process killed, for lack of memory? ({' '.join(str(error).split())})"
        mine = json.dumps({"rank": rank, "text": text})
        first = json.loads(here.store.compare_set(FAILED, "", mine))
    except DistError:
        if not lost:
            return text, True
        who, reporter = ("torchrun", 0) if rendezvous.agent_serves() else ("rank 0", 1)
        text = f"UserError: {who} on {here.started.host} has ended and could not say why; was it "
        return f"{text}killed, for lack of memory?", rank == reporter
    return first["text"], first["rank"] == rank


def _silent(here: Rendezvous) -> str:
    """Name the ranks that, unlike this one, do not report a lost connection."""
    here.store.set(f"lost/{here.started.rank}", "")
    until, silent = time.monotonic() + SILENT_S, list(range(len(here.hosts)))
    while silent and time.monotonic() < until:
        time.sleep(0.05)
        silent = [rank for rank in silent if not here.store.check([f"lost/{rank}"])]
    names = ", ".join(f"rank {rank} ({here.hosts[rank]})" for rank in silent)
    return names or "another rank"


def is_loss(error: BaseException) -> bool:
    """Tell whether an error only says that another rank cannot be reached."""
    from torch.distributed import DistNetworkError, DistStoreError

    if isinstance(error, DistNetworkError | DistStoreError):
        return True
    # other NCCL errors are faults of this rank: two ranks on one GPU, a wrong network device
    signs = ("gloo/", "ncclRemoteError")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


@contextlib.contextmanager
def reported_once() -> Iterator[None]:
    """Exit silently if another rank reports the error that ended the run."""
    try:
        yield
    except Interrupted:
        raise
    except (Exception, KeyboardInterrupt) as error:
        text, is_mine = cause_of(error)
        rendezvous.leave()
        if isinstance(error, KeyboardInterrupt) and is_stop(text):
            raise
        if not is_mine:
            sys.exit(1)
        if rendezvous.here() is not None and is_loss(error):
            raise UserError(text.partition(": ")[2]) from error
        raise
