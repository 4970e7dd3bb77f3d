"""The web application around the page: Gradio's own, behind a guard."""

from __future__ import annotations

import socket

import gradio as gr
from fastapi import FastAPI
from gradio.components import Component

from omni_rlvr.config.tasks import LOOPBACK
from omni_rlvr.tasks.serve.guard import Guard
from omni_rlvr.tasks.serve.uploads import Uploads

FONT = ["system-ui", "sans-serif"]
MONO = ["ui-monospace", "monospace"]


def site(blocks: gr.Blocks, uploads: Uploads, *, port: int, css: str) -> FastAPI:
    """Put the page into a web application behind the guard.

    Args:
        blocks: the page.
        uploads: where visitors' files lie, and how large they may be.
        port: the port that the page will listen on.
        css: the style sheet of the page.
    """
    app = FastAPI(openapi_url=None)
    task = uploads.task
    own = () if task.is_local else (task.host, socket.gethostname(), socket.getfqdn())
    app.add_middleware(
        Guard,
        uploads=uploads,
        events={
            number: [isinstance(p, Component) and p.data_model is not None for p in event.inputs]
            for number, event in blocks.fns.items()
        },
        hosts=[name.lower() for name in (*LOOPBACK, *own, *task.allowed_hosts)],
        by_address=not task.is_local,
        port=port,
    )
    blocks.queue(max_size=32, api_open=False)
    mounted = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_port=port,
        footer_links=[],
        run_history=False,
        max_file_size=int(task.max_upload_mb * 1e6),
        ssr_mode=False,
        mcp_server=False,
        show_error=False,
        theme=gr.themes.Default(font=FONT, font_mono=MONO, primary_hue="blue"),
        css=css,
    )
    blocks.has_launched = True  # Gradio's own check of paths is off until then
    return mounted
