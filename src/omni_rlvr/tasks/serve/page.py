"""The page: uploads and question on the left, a column of answers for each model on the right.

The state of a session holds the features of uploads. Their files are deleted once the first answer
is complete. All events wait in one queue, because the models can do only one thing at a time.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.components import Component

from omni_rlvr.config.tasks import LOOPBACK
from omni_rlvr.tasks.serve import render
from omni_rlvr.tasks.serve.answers import Answer, Clip, Stopped, ask
from omni_rlvr.tasks.serve.guard import Guard
from omni_rlvr.tasks.serve.inputs import ServeInputs
from omni_rlvr.tasks.serve.uploads import Upload, Uploads, shown_name
from omni_rlvr.text.terminal import printable
from omni_rlvr.types import Example, UserError

MODALITIES = {"picture + sound": (True, True), "picture": (True, False), "sound": (False, True)}
START = "Add a clip: drop a file, or record one."
HEAD = (
    "<h1>omni-rlvr</h1><p>What does the model see and hear, what does it conclude, "
    "and which of the two drove its answer?</p>"
)
MAX_QUESTION = 500
"""Most characters of a question."""
FONT = ["system-ui", "sans-serif"]
MONO = ["ui-monospace", "monospace"]


class Page:
    """Handle the events of the page."""

    def __init__(self, parts: ServeInputs, uploads: Uploads, stop: threading.Event):
        """Remember the models, the folder of uploads, and the event set when the server ends."""
        self.parts, self.uploads, self.stop = parts, uploads, stop

    def take(self, session: Clip, path: str | None, *, kind: str) -> tuple[Clip, str]:
        """Read an uploaded file, which replaces the one before; ``kind`` is "video" or "audio"."""
        before: Upload | None = vars(session)[kind]
        if before is not None and str(before.path) != path:
            self.uploads.delete(before.path)
        session = replace(session, **{kind: None})
        if path is None:
            return session, _given(session)
        try:
            upload = self.uploads.take(Path(path), as_sound=kind == "audio")
        except BaseException as error:
            self.uploads.delete(Path(path))
            if not isinstance(error, UserError):
                raise
            return session, render.message(str(error), kind="error")
        session = replace(session, **{kind: upload})
        return session, _given(session)

    def run(self, session: Clip, modality: str, question: str) -> Iterator[tuple[str, ...]]:
        """Ask one model after the other; yield the message and all columns at every change."""
        columns = [render.panel(model.path, "") for model in self.parts.models]
        try:
            clip, note = _shown(session, modality)
            if not 0 < len(question.strip()) <= MAX_QUESTION:
                raise UserError(f"The question must have 1 to {MAX_QUESTION} characters.")
            text = render.message(note, kind="note") if note else _given(session)
            for place, model in enumerate(self.parts.models):
                for body, busy in self._asked(place, clip, question.strip()):
                    columns[place] = render.panel(model.path, body, busy=busy)
                    yield text, *columns
        except UserError as error:
            yield render.message(str(error), kind="error"), *columns
        except Stopped:
            return
        finally:
            for upload in session.uploads:
                self.uploads.delete(upload.path)

    def _asked(self, place: int, clip: Clip, question: str) -> Iterator[tuple[str, bool]]:
        task, lexicon = self.parts.task, self.parts.lexicon
        asked, said = ask(self.parts, place, clip, question, self.stop), ""
        while True:
            try:
                said += next(asked)
            except StopIteration as end:
                answer: Answer = end.value
                break
            yield render.reasoning(said.rstrip("\n"), lexicon, busy=True), True
        options = {"value": task.value, "lead": task.lead, "absent": task.absent}
        yield render.answer(answer, lexicon, **options), False

    def example(self, example: Example) -> tuple[str | None, str | None]:
        """Copy an example clip to the folder of uploads."""
        return self._copied(example.video), self._copied(example.audio)

    def _copied(self, path: Path | None) -> str | None:
        if path is None:
            return None
        size = path.stat().st_size
        try:
            self.uploads.reserve("", size)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error
        self.uploads.release("", size, [])
        return shutil.copy(path, tempfile.mkdtemp(dir=self.uploads.folder))


def build_page(page: Page) -> gr.Blocks:
    """Build the components of the page and connect their events."""
    parts = page.parts
    chosen = (parts.clips.modality.video, parts.clips.modality.audio)
    sees = all("video" in model.policy.towers() for model in parts.models)
    with gr.Blocks(title="omni-rlvr", analytics_enabled=False) as blocks:
        session = gr.State(Clip())
        gr.HTML(HEAD, elem_id="head")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                video, audio = _media(parts)
                message = gr.HTML(render.message(START, kind="note"), elem_id="message")
                modality = gr.Radio(
                    [name for name, (video, _) in MODALITIES.items() if sees or not video],
                    value=next(name for name, shown in MODALITIES.items() if shown == chosen),
                    label="Show the model",
                    elem_id="modality",
                )
                question = gr.Textbox(
                    parts.question,
                    label="Question",
                    lines=2,
                    max_length=MAX_QUESTION,
                    elem_id="question",
                )
                with gr.Row():
                    button = gr.Button("Ask", variant="primary", elem_id="ask", scale=3)
                    stop = gr.Button("Stop", elem_id="stop", min_width=80)
                tries = _tries(parts.examples)
            with gr.Column(scale=5, min_width=300), gr.Row(elem_classes="answers"):
                columns = [
                    gr.HTML(
                        render.panel(m.path, render.waiting("Its answer will stand here.")),
                        elem_id=f"model-{i}",
                    )
                    for i, m in enumerate(parts.models)
                ]
        for kind, component in (("video", video), ("audio", audio)):
            take = partial(page.take, kind=kind)
            _event(component.change, take, [session, component], [session, message])
        for choice, example in tries:
            _event(choice.click, partial(page.example, example), [], [video, audio])
        asked = _event(button.click, page.run, [session, modality, question], [message, *columns])
        stop.click(None, cancels=[asked], queue=False, api_visibility="private")
    return blocks


def _media(parts: ServeInputs) -> tuple[gr.Video, gr.Audio]:
    limits = f"up to {parts.task.max_clip_s:g} s and {parts.task.max_upload_mb:g} MB"
    video = gr.Video(
        sources=["upload", "webcam"],
        include_audio=True,
        label=f"Clip ({limits})",
        elem_id="video",
    )
    with gr.Accordion("Sound alone, or in place of the clip's", open=False, elem_id="sound"):
        audio = gr.Audio(
            sources=["upload", "microphone"], type="filepath", show_label=False, elem_id="audio"
        )
    return video, audio


def _tries(examples: Sequence[Example]) -> list[tuple[gr.Button, Example]]:
    """Add a button for each example clip, named by its label."""
    if not examples:
        return []
    gr.HTML('<div class="omni"><h4>Or try a clip of the data set; its label is</h4></div>')
    with gr.Row(elem_id="examples"):
        return [
            (gr.Button(printable(e.answer), size="sm", min_width=80, elem_classes="try"), e)
            for e in examples
        ]


def _event(
    listen: Callable[..., Any], handler: Callable[..., Any], inputs: list, outputs: list
) -> Any:
    """Add an event that waits for those before it: models and readers do one thing at a time."""
    return listen(
        handler,
        inputs,
        outputs,
        concurrency_limit=1,
        concurrency_id="model",
        show_progress="hidden",
        api_visibility="private",
    )


def _given(session: Clip) -> str:
    """Make the message that describes the uploads."""
    found = []
    for upload in session.uploads:
        kinds = {(True, True): "picture and sound", (True, False): "picture only"}
        there = kinds.get((upload.has_video, upload.has_audio), "sound only")
        notes = "".join(f" Note: {note}." for note in upload.notes)
        found.append(f"{shown_name(upload.path)}: {upload.duration_s:.1f} s, {there}.{notes}")
    return render.message(" ".join(found) or START, kind="note")


def _shown(session: Clip, modality: str) -> tuple[Clip, str]:
    """Choose the uploads that the model gets, and a sentence if a wanted modality is missing.

    Raises:
        UserError: There is no upload, or none with that modality.
    """
    if modality not in MODALITIES:
        raise UserError(f"{modality} is not a choice of modalities.")
    if not session.uploads:
        raise UserError(START)
    want_video, want_audio = MODALITIES[modality]
    seen = next((u for u in session.uploads if u is session.video and u.has_video), None)
    heard = next((u for u in reversed(session.uploads) if u.has_audio), None)
    clip = Clip(seen if want_video else None, heard if want_audio else None)
    if not clip.uploads:
        raise UserError(f"There is no {modality} in it; choose the other.")
    if want_video and want_audio and clip.audio is None:
        return clip, "The clip has no sound; the model is shown the picture only."
    if want_video and want_audio and clip.video is None:
        return clip, "There is no picture; the model hears the sound only."
    return clip, ""


def site(blocks: gr.Blocks, uploads: Uploads, *, port: int, css: str) -> FastAPI:
    """Put the page into a web application behind the guard.

    Args:
        blocks: the page.
        uploads: the folder of visitors' files and its limits.
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
