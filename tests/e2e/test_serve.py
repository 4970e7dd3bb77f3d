"""task=serve driven by a browser: a clip in, reasoning as it comes, bars; and what is kept out.

One server answers all of them; its models have random weights, which say much and mean nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
import soundfile

from omni_rlvr.data.synthetic.emotions import LABELS
from omni_rlvr.record import read_json
from omni_rlvr.tasks.serve.inputs import ServeInputs
from omni_rlvr.tasks.serve.serve import run
from omni_rlvr.types import UserError

if TYPE_CHECKING:
    from playwright.sync_api import Page

EVIL = "<img src=x onerror=ran=1>.mp4"
WATCH = """() => {
    window.lengths = [];
    const column = document.querySelector("#model-0");
    new MutationObserver(() => {
        const reasoning = column.querySelector(".reasoning");
        if (reasoning) window.lengths.push(reasoning.textContent.length);
    }).observe(column, {childList: true, subtree: true, characterData: true});
}"""
"""Notes how long the reasoning is whenever it changes."""


@dataclass(frozen=True)
class Server:
    """A running page."""

    process: subprocess.Popen[str]
    url: str
    said: str
    """What it printed before the address."""
    uploads: Path
    outputs: Path

    def files(self) -> list[Path]:
        """What visitors left."""
        return [path for path in self.uploads.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def server(
    make_runner: Callable, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A page with two models."""
    temporary = tmp_path_factory.mktemp("temporary")
    runner = make_runner()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        process = runner.start(
            "task=serve",
            "task.port=0",
            f"task.compare={checkpoint}",
            "task.num_examples=2",
            "task.max_upload_mb=1",
            "task.max_clip_s=30",
            "task.max_completion_length=40",
            "rollout._target_=slow_rollout.Slow",
            "model.instruction='in <answer> </answer> tags'",
        )
    lines = []
    try:
        for line in process.stdout or ():
            lines.append(line)
            if line.startswith("open http"):
                break
        else:
            pytest.fail("".join(lines))
        (uploads,) = temporary.glob("omni-rlvr-serve-*")
        url = line.split()[1]
        yield Server(process, url, "".join(lines[:-1]), uploads, runner.root)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def page(server: Server, browser_page: Page, expect: Callable) -> Iterator[Page]:
    """The page in a browser; all it asks for must come from the server itself."""
    asked: list[str] = []
    browser_page.on("request", lambda request: asked.append(request.url))
    browser_page.goto(server.url)
    expect(browser_page.locator("#ask")).to_be_visible()
    yield browser_page
    outside = [a for a in asked if not a.startswith((server.url, "data:", "blob:"))]
    assert not outside


def drop(page: Page, path: Path, into: str = "video") -> None:
    """Gives the page a file."""
    if into == "audio" and not page.locator("#audio").is_visible():
        page.click("#sound button")
    page.set_input_files(f"#{into} input[type=file]", path)


def message(page: Page):
    return page.locator("#message .omni-message")


def ask(page: Page, expect: Callable, columns: int = 2) -> None:
    """Asks, and waits for every column's bars."""
    page.click("#ask")
    for i in range(columns):
        expect(page.locator(f"#model-{i} .shapley")).to_be_visible()


def test_reasoning_streams_in_and_bars_follow(
    server: Server, page: Page, clips: Path, expect: Callable
) -> None:
    evil = Path(shutil.copy(clips / "clips/000000.mp4", server.outputs.parent / EVIL))
    drop(page, evil)
    expect(message(page)).to_contain_text("s, picture and sound.")
    expect(message(page)).to_contain_text("img src")
    assert len(server.files()) == 1
    page.evaluate(WATCH)
    ask(page, expect)
    lengths = page.evaluate("window.lengths")
    growing = sorted(set(lengths))
    assert len(growing) > 3  # it did not come at once
    assert [n for n in lengths if n] == sorted(n for n in lengths if n)
    for i in range(2):
        column = page.locator(f"#model-{i}")
        expect(column.locator(".labels .row")).to_have_count(len(LABELS))
        expect(column.locator(".subsets .row")).to_have_count(4)
        phi = [
            float(column.locator(f"[data-player={p}]").get_attribute("data-phi") or "")
            for p in ("picture", "sound")
        ]
        assert all(abs(x) <= 1 for x in phi)
        assert any(phi)
    first, second = (page.inner_text(f"#model-{i} .reasoning") for i in range(2))
    assert first == second  # the same checkpoint, greedily
    assert page.evaluate("window.ran") is None
    assert page.locator("img[src=x]").count() == 0
    assert server.files() == []


def test_the_same_clip_is_asked_about_again_without_its_file(
    server: Server, page: Page, clips: Path, expect: Callable
) -> None:
    drop(page, clips / "clips/000001.mp4")
    ask(page, expect)
    assert server.files() == []
    whole = page.inner_text("#model-1")
    page.click("#modality label:has-text('sound') >> nth=1")
    page.click("#ask")
    expect(page.locator("#model-1")).to_contain_text("No picture was shown")
    assert page.inner_text("#model-1") != whole
    assert page.locator("#model-1 [data-player]").count() == 1


def test_a_silent_clip_goes_on_with_the_picture_or_with_a_sound_beside_it(
    server: Server, page: Page, clips: Path, tmp_path: Path, expect: Callable
) -> None:
    drop(page, clips / "silent.mp4")
    expect(message(page)).to_contain_text("silent.mp4: 2.0 s, picture only.")
    ask(page, expect)
    expect(message(page)).to_have_text(
        "The clip has no sound; the model is shown the picture only."
    )
    expect(page.locator("#model-0 .answer")).to_contain_text("from picture")
    page.click("#modality label:has-text('sound') >> nth=1")
    page.click("#ask")
    expect(message(page)).to_have_text("There is no sound in it; choose the other.")
    drop(page, wav(tmp_path / "voice.wav"), "audio")
    expect(message(page)).to_contain_text("voice.wav: 1.0 s, sound only.")
    page.click("#modality label:has-text('picture + sound')")
    page.click("#ask")
    expect(page.locator("#model-1 .answer")).to_contain_text("from picture and sound")
    assert server.files() == []


def test_an_answer_can_be_stopped(
    server: Server, page: Page, clips: Path, expect: Callable
) -> None:
    drop(page, clips / "clips/000000.mp4")
    page.click("#ask")
    expect(page.locator("#model-0 .caret")).to_be_visible()
    page.click("#stop")
    page.get_by_label("Clear").first.click()
    drop(page, clips / "clips/000004.mp4")  # its turn comes once the answer has ended
    expect(message(page)).to_contain_text("000004.mp4")
    assert page.locator(".shapley").count() == 0
    assert page.locator("#model-1 .reasoning").count() == 0
    ask(page, expect)
    assert server.files() == []


def test_a_clip_of_the_data_set_can_be_tried(server: Server, page: Page, expect: Callable) -> None:
    page.click("#ask")
    expect(message(page)).to_contain_text("Add a clip")
    page.click(".try >> nth=1")
    expect(message(page)).to_contain_text("s, picture and sound.")
    ask(page, expect)
    assert server.files() == []


def test_a_file_that_is_refused_says_why_and_goes(
    server: Server, page: Page, clips: Path, tmp_path: Path, expect: Callable
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((clips / "clips/000000.mp4").read_bytes()[:3000])
    drop(page, broken)
    alert = page.locator("#message [role=alert]")
    expect(alert).to_contain_text("broken.mp4: is truncated")
    assert server.files() == []
    page.click("#ask")
    expect(message(page)).to_contain_text("Add a clip")
    page.get_by_label("Clear").first.click()
    drop(page, ten_minutes(tmp_path / "long.mp4"))
    expect(alert).to_have_text("long.mp4 is 601 s long; this page takes clips of up to 30 s.")
    assert server.files() == []


def test_a_file_that_is_too_large_is_not_taken(
    server: Server, page: Page, tmp_path: Path, expect: Callable
) -> None:
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(1_500_000))
    drop(page, large)
    expect(page.get_by_text("maximum allowed size")).to_be_visible()
    assert server.files() == []


def test_another_site_cannot_reach_it_by_another_name(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert host == "127.0.0.1"


def test_ctrl_c_ends_it_and_leaves_nothing(server: Server, checkpoint: Path) -> None:
    assert server.said.count(f"model: {checkpoint}") == 2
    (server.uploads / "left.mp4").write_bytes(b"a clip")
    os.killpg(server.process.pid, signal.SIGINT)
    out, _ = server.process.communicate(timeout=60)
    assert server.process.returncode == 130
    assert out.splitlines() == ["stopped; all uploads are deleted"]
    assert not server.uploads.exists()
    (record,) = server.outputs.rglob("run.json")
    assert read_json(record)["status"] == "interrupted"


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_an_address_that_cannot_be_had_is_named(runner, host: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        address = (f"task.host={host}", f"task.port={port}")
        parts, _ = runner.build("task=serve", "task.num_examples=0", *address)
        assert isinstance(parts, ServeInputs)
        with pytest.raises(UserError, match=f"^{' '.join(address)}: cannot listen there"):
            run(parts)


def wav(path: Path) -> Path:
    """A second of a tone."""
    soundfile.write(path, np.sin(np.arange(16_000) / 20), 16_000)
    return path


def ten_minutes(path: Path) -> Path:
    """A frame every ten seconds; the last one is shown for a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width = stream.height = 32
        for i in range(61):
            frame = av.VideoFrame.from_ndarray(
                np.full((32, 32, 3), 4 * i, np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = 10 * i, Fraction(1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
