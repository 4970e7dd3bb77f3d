"""The web application around the page: Gradio's own, bound to this machine's names."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

FONT = ["system-ui", "sans-serif"]
MONO = ["ui-monospace", "monospace"]


def site(
    blocks: gr.Blocks, *, hosts: Sequence[str], port: int, css: str, max_upload: int
) -> FastAPI:
    """Mounts the page.

    Args:
        blocks: the page.
        hosts: names under which it answers, so that another site's page cannot reach it by
            pointing its own name here; ``["*"]`` for any.
        port: it will listen on.
        css: of the page.
        max_upload: bytes of the largest file.
    """
    app = FastAPI(openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    blocks.queue(max_size=32, api_open=False)
    return gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_port=port,
        footer_links=[],
        run_history=False,
        max_file_size=max_upload,
        ssr_mode=False,
        mcp_server=False,
        show_error=False,
        theme=gr.themes.Default(font=FONT, font_mono=MONO, primary_hue="blue"),
        css=css,
    )
