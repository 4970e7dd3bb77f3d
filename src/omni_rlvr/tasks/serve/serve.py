"""task=serve: from its inputs to a page that listens, until Ctrl-C.

Nothing leaves this machine: no telemetry, no share link, no file or font from elsewhere. What
visitors upload lies in a temporary folder that goes with the server.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from omni_rlvr.tasks.lifecycle import recorded
from omni_rlvr.tasks.serve.inputs import ServeInputs, build
from omni_rlvr.tasks.serve.uploads import Uploads
from omni_rlvr.training.devices import device_of
from omni_rlvr.types import Interrupted, UserError

__all__ = ["build", "run"]

PREFIX = "omni-rlvr-serve-"
"""Of the temporary folder's name."""
SWEEP_S = 30
"""Seconds between two looks for files that nobody came back for."""
SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_SHARE": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SSR_MODE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""What Gradio reads from the environment."""


def run(parts: ServeInputs) -> None:
    """Serves the page.

    Raises:
        UserError: the address cannot be listened on.
        Interrupted: Ctrl-C.
    """
    device = device_of(parts.place.config["trainer"]["accelerator"])
    for model in parts.models:
        model.policy.eval().to(device=device)
    with recorded(parts.place, device=str(device)):
        listening = _listen(parts.task.host, parts.task.port)
        uploads = Uploads(parts, Path(tempfile.mkdtemp(prefix=PREFIX)), device)
        try:
            _serve(parts, uploads, listening)
        except KeyboardInterrupt:
            pass
        finally:
            uploads.close()
            listening.close()
        raise Interrupted("stopped; all uploads are deleted")


def _serve(parts: ServeInputs, uploads: Uploads, listening: socket.socket) -> None:
    os.environ.update(SETTINGS, GRADIO_TEMP_DIR=str(uploads.folder))
    import uvicorn  # Gradio reads the environment when it is imported

    from omni_rlvr.tasks.serve.page import Page, build_page
    from omni_rlvr.tasks.serve.site import site

    stop = threading.Event()
    host, port = listening.getsockname()[:2]
    css = (files("omni_rlvr.tasks.serve") / "page.css").read_text("utf-8")
    app = site(
        build_page(Page(parts, uploads, stop)),
        uploads,
        port=port,
        css=css,
    )
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, ws="none")
    )
    running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    running.start()
    print("\n".join(_greeting(parts, host, port)), flush=True)
    try:
        while running.is_alive() and not stop.wait(SWEEP_S):
            uploads.sweep()
    finally:
        stop.set()
        logging.getLogger("uvicorn.error").disabled = True  # visitors are cut off, and that is all
        server.should_exit = True
        running.join()


def _listen(host: str, port: int) -> socket.socket:
    """Opens the port before anything is loaded for it, so that a taken one shows at once."""
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


def _greeting(parts: ServeInputs, host: str, port: int) -> Sequence[str]:
    shown = f"[{host}]" if ":" in host else host
    lines = [f"open http://{shown}:{port} (Ctrl-C stops)"]
    if not parts.task.is_local:
        lines.insert(0, f"task.host={parts.task.host}: others can reach this page; no password")
    return lines
