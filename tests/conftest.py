"""What all tests share: no network, few threads, their order; fixtures stand in ``policies``."""

from __future__ import annotations

import gc
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is: two processes share two cores

import pytest

pytest_plugins = ("browser",)
HERE = Path(__file__).parent
PURE = ("functional", "text", "rewards")
"""Folders that run first: they load no model, and say within seconds that a number is wrong."""

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    if signal.getsignal(number) == signal.SIG_IGN:  # as in a script's background job, or nohup
        signal.signal(number, lambda *_: None)  # still nothing here, but what tests start hears it

ALL_SLOW = re.compile(r"^pytestmark = .*pytest\.mark\.slow", re.MULTILINE)
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def pytest_configure(config: pytest.Config) -> None:
    """Loads the fixtures, but not in the process that hands tests out to xdist's workers."""
    if config.option.dist == "no" or config.option.collectonly:
        config.pluginmanager.import_plugin("policies")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves modules that are slow as a whole unimported, where slow tests are left out."""
    if config.option.markexpr != "not slow":
        return None
    is_slow = collection_path == HERE / "e2e" or (
        collection_path.suffix == ".py" and ALL_SLOW.search(collection_path.read_text()) is not None
    )
    return is_slow or None  # None leaves it to other plugins


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks runs of whole commands as slow, and puts pure tests first and slow ones last.

    Tests on a device, and those that run the commands of pages, are left out unless they are asked
    for.
    """
    for mark in ("device", "docs"):
        if mark not in config.option.markexpr:
            left_out = [item for item in items if item.get_closest_marker(mark)]
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker(mark)]
    whole = {"browser", "runner", "make_runner", "command"}

    def place(item: pytest.Item) -> int:
        if item.get_closest_marker("slow") is not None:
            return 2
        return 0 if item.path.relative_to(HERE).parts[0] in PURE else 1

    for item in items:
        asks_for = set(item.fixturenames) if isinstance(item, pytest.Function) else set()
        if item.path.is_relative_to(HERE / "e2e") or whole & asks_for:
            item.add_marker("slow")
    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Spares the garbage collector what was imported, which it would go through again and again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses every connection that would leave this machine."""

    def guarded(method: Callable) -> Callable:
        def connect(self: socket.socket, address):
            if self.family != socket.AF_UNIX and address[0] not in LOOPBACK:
                raise OSError(f"the tests have no network; something connects to {address}")
            return method(self, address)

        return connect

    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
