"""Connect the ranks before the config is composed, and check that they agree.

They connect to a key-value store: that of the agent of torch elastic, or one that rank 0 opens. A
process that was started alone connects to none, and every function then returns its own values.
torch is imported only to connect, so that ``--help`` stays fast.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import platform
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omni_rlvr.ranks.environment import TORCHRUN, Started
from omni_rlvr.record import version
from omni_rlvr.types import UserError

if TYPE_CHECKING:
    from torch.distributed import Store

START_S = 900.0
"""Seconds that ranks wait for each other at the start: machines do not start together."""
COLLECTIVE_S = 1800.0
"""Seconds that a rank waits in a collective for the others: one may write a checkpoint, or sample
long completions."""
TRY_S = 5.0
"""Time limit of one attempt to connect; Python handles Ctrl-C between two attempts."""
TELL_S = 10.0
"""Seconds after which a rank prints which other rank it waits for."""
SEEN_S = 4.0
"""Seconds that a folder may take to appear on another machine: network disks show files late."""
LEAVE_S = 5.0
"""Seconds that rank 0 keeps its store open at its end, for ranks that end at about that time."""
SAME = ("omni-rlvr", "torch", "transformers")
"""Packages whose versions must be equal on all machines, besides Python."""
LOOPBACK = "GLOO_SOCKET_IFNAME", "lo"
"""Lets gloo use the loopback device where all ranks are on one machine, whose name in the network
may not resolve."""
FAILED = "failed"
"""The key of the first error of any rank; see ``failure``."""
_PR_SET_PDEATHSIG = 1


@dataclass
class Rendezvous:
    """The connection of this process to the other ranks."""

    started: Started
    store: Store
    hosts: list[str] = field(default_factory=list)
    """The machine of each rank."""
    cause: tuple[str, bool] | None = None
    """The error that ended the run, and whether this rank must report it; see ``failure``."""
    num_shared: int = 0
    """Number of values exchanged so far; it makes the keys of the next one unique."""


_here: Rendezvous | None = None


def started() -> Started | None:
    """Return how this process was started, if it is one of several."""
    return None if _here is None else _here.started


def here() -> Rendezvous | None:
    """Return the connection to the other ranks, if there are any."""
    return _here


def is_first() -> bool:
    """Tell whether this is the process that prints: rank 0, or one that was started alone."""
    return _here is None or _here.started.rank == 0


def connect(how: Started) -> None:
    """Connect to the other ranks.

    Raises:
        UserError: Not all ranks connected, or they have different versions of a package.
    """
    global _here
    if how.by == TORCHRUN and sys.platform == "linux":  # the ranks of a killed torchrun would go on
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no stack traces of lost connections
    _here = Rendezvous(how, _open_store(how))
    if _here.store.add(f"came/{how.rank}", 1) > 1:
        raise UserError(
            f"rank {how.rank} was started again while the other ranks of its run go on; they "
            "cannot take it back, so start all ranks again"
        )
    os.environ["LOCAL_RANK"] = str(how.local_rank)  # ``distributed`` reads it; srun does not set it
    versions = {name: version(name) for name in SAME} | {"Python": platform.python_version()}
    me = {"host": platform.node(), "versions": versions}
    ranks = [json.loads(text) for text in all_gather(json.dumps(me))]
    _here.hosts = [rank["host"] for rank in ranks]
    check_versions(ranks)
    if len(set(_here.hosts)) == 1 and sys.platform == "linux":
        os.environ.setdefault(*LOOPBACK)


def _open_store(how: Started) -> Store:
    """Connect to the store, or open it."""
    from torch import distributed

    serves = how.rank == 0 and not agent_serves()
    name = "/".join(os.environ.get(f"TORCHELASTIC_{x}", "") for x in ("RUN_ID", "RESTART_COUNT"))
    start, is_told = time.monotonic(), False
    while True:
        try:
            store = distributed.TCPStore(
                how.host,
                how.port,
                how.world_size,
                is_master=serves,
                timeout=timedelta(seconds=TRY_S),
                wait_for_workers=False,
                multi_tenant=True,
            )
        except distributed.DistError as error:
            if not (serves or is_told) and time.monotonic() > start + TELL_S:
                _tell_wait(how, 0)
                is_told = True
            if serves or time.monotonic() > start + START_S:
                does = "open a port" if serves else "reach rank 0"
                raise UserError(
                    f"rank {how.rank} cannot {does} at {how.host}:{how.port}, which {how.by} "
                    f"named: {str(error).splitlines()[0]}"
                ) from error
        else:
            store.set_timeout(timedelta(seconds=START_S))
            return distributed.PrefixStore(f"omni-rlvr/{name}", store)


def agent_serves() -> bool:
    """Tell whether the process that started the ranks, torch elastic's agent, holds the store."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def init_process_group() -> None:
    """Make the connected ranks a process group of torch, if they are not one yet."""
    import torch
    from torch import distributed

    if _here is None or distributed.is_initialized():
        return
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        store=distributed.PrefixStore("group", _here.store),
        rank=_here.started.rank,
        world_size=_here.started.world_size,
        timeout=timedelta(seconds=COLLECTIVE_S),
    )


def leave() -> None:
    """Leave the store; if rank 0 holds it, rank 0 waits a little for the others.

    An error in the config is raised by all ranks at about the same time. If rank 0 closed the store
    at once, the others could not see that it is reported, and would report it again.
    """
    if _here is None or agent_serves():
        return
    with contextlib.suppress(RuntimeError):  # the store is gone
        num_left, until = _here.store.add("left", 1), time.monotonic() + LEAVE_S
        while is_first() and num_left < _here.started.world_size and time.monotonic() < until:
            time.sleep(0.05)
            num_left = _here.store.add("left", 0)


def all_gather(value: str) -> list[str]:
    """Collect a text from every rank, in rank order; every rank calls this in the same order."""
    if _here is None:
        return [value]
    _here.num_shared += 1
    key = f"said/{_here.num_shared}"
    _here.store.set(f"{key}/{_here.started.rank}", value)
    ranks = range(_here.started.world_size)
    return [_wait_for(f"{key}/{rank}", rank, START_S) for rank in ranks]


def broadcast(make: Callable[[], str]) -> str:
    """Return what ``make`` returns on rank 0; all ranks must make the same calls in the same order.

    There is no time limit: rank 0 may wait for another run that makes the checkpoint to start from.
    """
    if _here is None:
        return make()
    _here.num_shared += 1
    key = f"shared/{_here.num_shared}"
    if _here.started.rank == 0:
        _here.store.set(key, make())
    return _wait_for(key, 0, math.inf)


def check_seen(folder: Path, key: str) -> None:
    """Check that every rank sees a folder that rank 0 made, and sees the same one.

    Args:
        folder: The folder; it exists on rank 0.
        key: The option that names the folder, for the message.

    Raises:
        UserError: The folder is not on a disk that all machines share.
    """
    if _here is None:
        return
    mark = folder / ".rendezvous"

    def make_mark() -> str:
        mark.write_text(uuid.uuid4().hex)  # unique: another folder cannot hold the same text
        return mark.read_text()

    text, until = broadcast(make_mark), time.monotonic() + SEEN_S
    while not (sees := mark.is_file() and mark.read_text() == text) and time.monotonic() < until:
        time.sleep(0.1)
    said = zip(_here.hosts, all_gather(str(sees)), strict=True)
    if is_first():
        mark.unlink()
    if blind := [host for host, seen in said if seen != "True"]:
        raise UserError(
            f"{key}: {folder}, which {_here.hosts[0]} made, is not seen by "
            f"{', '.join(dict.fromkeys(blind))}; give a folder on a disk that all machines share"
        )


def check_same(values: Mapping[str, Any]) -> None:
    """Check that every rank was started with the same options.

    Args:
        values: Full key of each option -> its value, resolved.

    Raises:
        UserError: Two ranks have different values for an option.
    """
    texts = [json.loads(text) for text in all_gather(json.dumps(values))]
    for rank, other in enumerate(texts):
        for key in {**texts[0], **other}:
            if texts[0].get(key) != other.get(key):
                raise UserError(
                    f"the machines were started with different options: {key} is "
                    f"{texts[0].get(key)!r} on rank 0 and {other.get(key)!r} on rank {rank}; give "
                    "all of them the same command"
                )


def _wait_for(key: str, rank: int, limit_s: float) -> str:
    """Wait for a value that a rank writes into the store; signals are handled meanwhile."""
    assert _here is not None
    start, is_told = time.monotonic(), not is_first() or bool(_here.hosts)
    while not _here.store.check([key]):
        if _here.store.check([FAILED]):
            raise UserError("another rank has failed")  # that rank reports its error
        if time.monotonic() > start + limit_s:
            raise UserError(
                f"rank {rank} of {_here.started.world_size} did not come to {_here.started.host}:"
                f"{_here.started.port} within {limit_s:g} s"
            )
        if not is_told and time.monotonic() > start + TELL_S:
            _tell_wait(_here.started, rank)
            is_told = True
        time.sleep(0.02)
    return _here.store.get(key).decode()


def _tell_wait(how: Started, rank: int) -> None:
    """Say which rank is waited for, so that a wrong address does not look like a hang."""
    text = f"rank {how.rank} waits for rank {rank} at {how.host}:{how.port}"
    print(f"{text} (for at most {START_S:g} s)", file=sys.stderr, flush=True)


def check_versions(ranks: list[dict[str, Any]]) -> None:
    """Compare the versions that the ranks reported.

    Raises:
        UserError: Two ranks have different versions of a package or of Python.
    """
    for rank, other in enumerate(ranks):
        for name, first in ranks[0]["versions"].items():
            if (found := other["versions"][name]) != first:
                raise UserError(
                    f"the machines differ: {name} is {first} on {ranks[0]['host']} (rank 0) and "
                    f"{found} on {other['host']} (rank {rank}); install the same version on all"
                )
