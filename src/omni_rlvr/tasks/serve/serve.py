"""The task ``serve``: serve the page until Ctrl-C.

Nothing is sent to or fetched from other machines: no telemetry, no share link, no files or fonts.
Uploads are kept in a temporary folder, which is deleted when the server ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import threading
from contextlib import closing
from importlib.resources import files
from pathlib import Path

from omni_rlvr.tasks.lifecycle import recorded
from omni_rlvr.tasks.serve.inputs import ServeInputs, build
from omni_rlvr.tasks.serve.uploads import Uploads
from omni_rlvr.training.devices import device_of
from omni_rlvr.types import Interrupted, UserError

__all__ = ["build", "run"]

PREFIX = "omni-rlvr-serve-"
"""The prefix of the temporary folder's name."""
SWEEP_S = 30
"""Seconds between two searches for uploads that have become too old."""
SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Environment variables that Gradio reads."""


def run(parts: ServeInputs) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: The server cannot listen on the address.
        Interrupted: Ctrl-C was pressed.
    """
    device = device_of(parts.place.config["trainer"]["accelerator"])
    for model in parts.models:
        model.policy.eval().to(device=device)
    with recorded(parts.place, device=str(device)):
        listening = _listen(parts.task.host, parts.task.port)
        uploads = Uploads(parts, Path(tempfile.mkdtemp(prefix=PREFIX)), device)
        with contextlib.suppress(KeyboardInterrupt), closing(listening), closing(uploads):
            _serve(parts, uploads, listening)
        raise Interrupted("stopped; all uploads are deleted")


def _serve(parts: ServeInputs, uploads: Uploads, listening: socket.socket) -> None:
    os.environ.update(SETTINGS, GRADIO_TEMP_DIR=str(uploads.folder))
    import uvicorn  # Gradio reads the environment when it is imported

    from omni_rlvr.tasks.serve.page import Page, build_page, site

    stop = threading.Event()
    host, port = listening.getsockname()[:2]
    css = (files("omni_rlvr.tasks.serve") / "page.css").read_text("utf-8")
    app = site(build_page(Page(parts, uploads, stop)), uploads, port=port, css=css)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, ws="none")
    )
    running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    running.start()
    if not parts.task.is_local:
        print(f"task.host={parts.task.host}: others can reach this page; no password")
    shown = f"[{host}]" if ":" in host else host
    print(f"open http://{shown}:{port} (Ctrl-C stops)", flush=True)
    try:
        while running.is_alive() and not stop.wait(SWEEP_S):
            uploads.sweep()
    finally:
        stop.set()
        logging.getLogger("uvicorn.error").disabled = True  # it would report cut connections
        server.should_exit = True
        running.join()


def _listen(host: str, port: int) -> socket.socket:
    """Open the port first, so that a port in use is reported before anything slow happens."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with contextlib.ExitStack() as stack:
            listening = stack.enter_context(socket.socket(family, kind, proto))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            stack.pop_all()
    except OSError as error:
        raise UserError(
            f"task.host={host} task.port={port}: cannot listen there ({error.strerror}); "
            "task.port=0 takes any free port"
        ) from error
    return listening
