"""A page without a model, in a process of its own: ``python make_page.py FOLDER``.

Gradio leaves event loops open, which would fail tests of this process. It prints whether Gradio's
own check of paths is on, then its port, then every path that reaches the page's own code.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def main(folder: Path) -> None:
    os.environ.update(GRADIO_TEMP_DIR=str(folder), GRADIO_ANALYTICS_ENABLED="False")
    import uvicorn
    from gradio.context import LocalContext
    from gradio.exceptions import InvalidPathError
    from gradio.processing_utils import _check_allowed

    from omni_rlvr.config.dataset import DatasetConfig
    from omni_rlvr.config.tasks import ServeTask
    from omni_rlvr.tasks.serve.page import Page, build_page, site
    from omni_rlvr.tasks.serve.uploads import Uploads
    from omni_rlvr.types import UserError

    task = ServeTask(max_upload_mb=0.1, max_session_mb=0.25, allowed_hosts=["Proxy.example"])
    clips = SimpleNamespace(
        dataset=DatasetConfig(), modality=SimpleNamespace(video=True, audio=True)
    )
    policy = SimpleNamespace(towers=lambda: {"video": None, "audio": None})
    models = [SimpleNamespace(path="none", policy=policy)]
    parts: Any = SimpleNamespace(
        task=task, clips=clips, models=models, question="What is felt?", examples=[], lexicon=None
    )
    uploads: Any = Uploads(parts, folder, None)  # type: ignore[arg-type]

    def take(path: Path, *, as_sound: bool) -> None:
        print(path, flush=True)
        raise UserError("noted")

    uploads.take = take
    uploads.delete = lambda path: None
    blocks = build_page(Page(parts, uploads, threading.Event()))
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    port = listening.getsockname()[1]
    app = site(blocks, uploads, port=port, css="")
    LocalContext.blocks.set(blocks)
    try:
        _check_allowed("/etc/passwd", True)
        print("off")
    except InvalidPathError:
        print("on")
    LocalContext.blocks.set(None)
    print(port, flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none")).run([listening])


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
