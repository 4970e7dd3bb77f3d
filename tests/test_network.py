"""The network is off in tests, and what stays on this machine is not."""

from __future__ import annotations

import socket

import pytest


def test_a_connection_that_leaves_the_machine_is_refused():
    with socket.socket() as outside, pytest.raises(OSError, match="no network"):
        outside.connect(("192.0.2.1", 80))


def test_a_connection_to_this_machine_works():
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
