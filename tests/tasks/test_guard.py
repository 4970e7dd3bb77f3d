"""Attacks on the page with plain HTTP requests, and that its own requests still come through.

The server is a real one (see make_page.py) without a model, since no request gets as far as one.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("gradio")
pytestmark = pytest.mark.slow  # a page is started

META = {"_type": "gradio.FileData"}
JOIN, UPLOAD = "/gradio_api/queue/join", "/gradio_api/upload"


@dataclass
class Server:
    """A page that listens; ``taken`` are the paths that reached its own code."""

    port: int
    folder: Path
    check: str
    taken: list[str]

    def ask(
        self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str
    ) -> tuple[int, str, http.client.HTTPMessage]:
        """Sends one request: status, text and headers of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace"), answer.headers
        finally:
            connection.close()

    def upload(self, data: bytes, name: str = "a.mp4", **headers: str) -> tuple[int, str]:
        """Uploads a file as the page does."""
        return self.ask("POST", UPLOAD, form(data, name), **FORM, **headers)[:2]

    def join(self, value: object, **headers: str) -> tuple[int, str]:
        """Gives the page's first event (a new clip) a value."""
        body = {"data": [None, value], "fn_index": 0, "session_hash": "x", "trigger_id": 1}
        types = {"Content_Type": "application/json"}
        return self.ask("POST", JOIN, json.dumps(body).encode(), **types, **headers)[:2]

    def files(self) -> list[Path]:
        """What visitors left."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def settled(self, count: int) -> list[str]:
        """Waits until ``count`` values came through the queue."""
        ends = time.monotonic() + 20
        while len(self.taken) < count and time.monotonic() < ends:
            time.sleep(0.01)
        return self.taken


FORM = {"Content_Type": "multipart/form-data; boundary=xyz"}


def form(data: bytes, name: str) -> bytes:
    head = f'--xyz\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n--xyz--\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A page for files of 0.1 MB, of which a session may have 0.25 MB."""
    folder = tmp_path_factory.mktemp("uploads")
    command = [sys.executable, Path(__file__).with_name("make_page.py"), folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout
        check, port = lines.readline().strip(), int(lines.readline())
        taken: list[str] = []
        reading = threading.Thread(target=lambda: taken.extend(map(str.strip, lines)))
        reading.start()
        try:
            yield Server(port, folder, check, taken)
        finally:
            process.kill()
            reading.join()


@pytest.fixture(autouse=True)
def _empty(server: Server) -> None:
    for path in server.files():
        path.unlink(missing_ok=True)  # the server may be removing what was cut off
    server.taken.clear()


def test_an_uploaded_file_comes_through(server: Server) -> None:
    status, text = server.upload(b"a clip")
    assert status == 200
    (path,) = json.loads(text)
    assert Path(path).read_bytes() == b"a clip"
    assert server.join({"path": path, "meta": META, "orig_name": "../../etc/a/b.mp4"})[0] == 200
    assert server.settled(1) == [path]


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "/dev/zero", "/proc/self/environ", "/", "", ".", "..", "pyproject.toml",
        "{folder}/../../../../../../etc/passwd", "{folder}/digest/../../secret.mp4", "{folder}",
        "{folder}/link.mp4", "{folder}/pipe.mp4", "{folder}/loop.mp4", "{folder}/missing.mp4",
        "{folder}//../{name}/link.mp4", "file:///etc/passwd", "file:/etc/passwd", "~/.bashrc",
        "http://127.0.0.1:{port}/", "http://169.254.169.254/latest", "https://example.com/a.mp4",
        "//etc/passwd", "/etc/passwd\0.mp4", "\\\\host\\share\\a.mp4", "data:video/mp4;base64,AA==",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "extra",
    [
        {"meta": META},
        {},
        {"meta": {"_type": "other"}},
        {"meta": META, "is_stream": True},
        {"meta": META, "url": "http://127.0.0.1:9/a.mp4", "orig_name": "a.mp4"},
    ],
    ids=["meta", "bare", "other", "stream", "url"],
)
def test_a_path_that_was_not_uploaded_is_refused_before_it_is_opened(
    server: Server, path: str, extra: dict
) -> None:
    folder = server.folder
    (folder / "digest").mkdir(exist_ok=True)
    (folder.parent / "secret.mp4").write_bytes(b"secret")
    for name, make in (
        ("link.mp4", lambda place: place.symlink_to("/etc/passwd")),
        ("loop.mp4", lambda place: place.symlink_to(place)),
        ("pipe.mp4", os.mkfifo),
    ):
        if not os.path.lexists(folder / name):
            make(folder / name)
    named = path.format(folder=folder, name=folder.name, port=server.port)
    before = server.files()
    for value in ({"path": named, **extra}, [{"video": {"path": named, **extra}}]):
        status, text = server.join(value)
        assert status == 403
        assert text == "A file in the request was not uploaded, or is gone; add it."
    assert server.files() == before
    assert server.taken == []


def test_gradio_checks_paths_too(server: Server) -> None:
    assert server.check == "on"


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=../../etc/passwd",
        "/gradio_api/file=/dev/zero", "/gradio_api/file=%2Fetc%2Fpasswd", "/file=/etc/passwd",
        "/gradio_api/file=http://169.254.169.254/", "/gradio_api/file=file:///etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1:1/", "/gradio_api/info", "/gradio_api/openapi.json",
        "/gradio_api/file/etc/passwd", "/static/../../../../etc/passwd", "/monitoring",
        "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/gradio_api/stream/x/0/1/playlist.m3u8",
        "/assets/..%2f..%2f..%2f..%2fetc/passwd", "/custom_component/1/client/component/index.js",
        "/gradio_api/runs", "/docs", "/login", "/gradio_api/vibe-code/",
    ],
)  # fmt: skip
def test_nothing_else_is_read(server: Server, path: str) -> None:
    status, text, _ = server.ask("GET", path)
    assert status in (403, 404)
    assert "root:" not in text


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/run/predict", "/gradio_api/api/take", "/gradio_api/call/take",
        "/gradio_api/component_server", "/gradio_api/process_recording", "/gradio_api/vibe-edit/",
        "/gradio_api/stream/1", "/gradio_api/mcp/", "/", "/login", "/gradio_api/queue/join/",
    ],
)  # fmt: skip
def test_nothing_else_is_written_to(server: Server, path: str) -> None:
    body = json.dumps({"data": [], "fn_index": 0, "session_hash": "x"}).encode()
    assert server.ask("POST", path, body, Content_Type="application/json")[0] == 404
    assert server.ask("PUT", path)[0] == 404


def test_a_file_that_is_too_large_is_refused_before_it_is_copied(server: Server) -> None:
    status, text = server.upload(bytes(200_000))
    assert (status, text) == (
        413,
        "The file has 0.2 MB; this page takes files of up to 0.1 MB.",
    )
    chunked = form(bytes(200_000), "a.mp4")
    chunked = f"{len(chunked):x}\r\n".encode() + chunked + b"\r\n0\r\n\r\n"
    status, text, _ = server.ask(
        "POST", UPLOAD, iter([chunked]), **FORM, Transfer_Encoding="chunked"
    )
    assert (status, text) == (411, "The request does not say how long it is (Content-Length).")
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n"
            b"Content-Type: multipart/form-data; boundary=xyz\r\n\r\n--xyz"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 413")  # although the rest never comes
    status, text = server.join("x" * 200_000)
    assert status == 413
    assert not server.files()


def test_a_session_may_hold_only_so_much_and_all_of_them_ten_times_that(server: Server) -> None:
    cookie = {"Cookie": f"omni_rlvr_visitor_{server.port}=me"}
    files = [bytes([i]) * 90_000 for i in range(40)]
    assert [server.upload(data, **cookie)[0] for data in files[:3]] == [200, 200, 413]
    assert server.upload(files[2], **cookie)[1] == (
        "Your files here would take more than 0.25 MB; ask about them, or wait until they go."
    )
    assert [server.upload(data)[0] for data in files[3:6]] == [200, 200, 413]  # without a cookie
    own = server.files()
    for path in own:
        path.unlink()
    assert server.upload(files[2], **cookie)[0] == 200  # what has gone counts no more
    answers = [
        server.upload(data, Cookie=f"omni_rlvr_visitor_{server.port}={i}")
        for i, data in enumerate(files[6:])
    ]
    assert answers[-1] == (413, "This page holds as many files as it may; try again later.")
    total = sum(path.stat().st_size for path in server.files())
    assert 2_300_000 < total <= 2_500_000


def test_empty_files_count_too(server: Server) -> None:
    cookie = {"Cookie": f"omni_rlvr_visitor_{server.port}=empty"}
    answers = [server.upload(b"", f"{i}.mp4", **cookie)[0] for i in range(70)]
    kept = 250_000 // 4096 + 1  # each counts for a block; the last one begins below the limit
    assert answers == [200] * kept + [413] * (70 - kept)
    assert len(server.files()) == kept


def test_an_upload_that_is_cut_off_leaves_nothing(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        body = form(bytes(80_000), "a.mp4")
        head = f"POST {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(f"{head}Content-Type: {FORM['Content_Type']}\r\n\r\n".encode())
        connection.sendall(body[:40_000])
    ends = time.monotonic() + 10
    while any(server.folder.glob("tmp*")):
        assert time.monotonic() < ends
        time.sleep(0.01)
    assert server.upload(b"after")[0] == 200


@pytest.mark.parametrize(
    "name", ["../../a.mp4", "/etc/cron.d/a", "a/b/c.mp4", "..", "", "a\\..\\b.mp4", "<b>.mp4"]
)
def test_a_file_is_stored_in_the_folder_whatever_its_name(server: Server, name: str) -> None:
    status, text = server.upload(b"x", name)
    assert status == (400 if name == ".." else 200)
    for path in json.loads(text) if status == 200 else ():
        assert server.folder in Path(path).resolve().parents
    assert not Path("/etc/cron.d/a").exists()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Host": "192.168.0.1"}, 400),  # it listens on this machine's own address alone
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),  # another server of this machine
        ({"Origin": "http://localhost:{port}"}, 403),
        ({"Origin": "file://"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"}, 403),
        ({"Upgrade": "websocket", "Connection": "Upgrade", "Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:{port}", "Sec_Fetch_Site": "same-origin"}, 200),
        ({"Host": "LOCALHOST:{port}", "Origin": "http://localhost:{port}"}, 200),
        ({"Host": "[::1]:{port}"}, 200),
        ({"Host": "proxy.example", "Origin": "https://proxy.example"}, 200),
    ],
)
def test_other_hosts_and_origins_are_refused(server: Server, headers: dict, status: int) -> None:
    given = {name: value.format(port=server.port) for name, value in headers.items()}
    assert server.ask("GET", "/config", **given)[0] == status
    assert server.upload(b"x", **given)[0] == status
    assert server.join(None, **given)[0] == status


def test_no_other_site_can_show_the_page_in_a_frame(server: Server) -> None:
    for path in ("/", "/config", "/gradio_api/file=/etc/passwd"):
        headers = server.ask("GET", path)[2]
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    (cookie,) = server.ask("GET", "/")[2].get_all("Set-Cookie")
    assert cookie.startswith(f"omni_rlvr_visitor_{server.port}=")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    followed = server.ask("GET", "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert followed[0] == 200  # a link to the page is no attack


@pytest.mark.parametrize("body", [b"[" * 90_000, b"{", b"\xff", b'"a'])
def test_what_is_no_json_is_refused(server: Server, body: bytes) -> None:
    assert server.ask("POST", JOIN, body, Content_Type="application/json")[0] == 400


@pytest.mark.parametrize(
    "event",
    [
        {"fn_index": 99}, {"fn_index": -1}, {"fn_index": None}, {"fn_index": "0"}, {"data": "x"},
        {"data": []}, {"data": [None] * 3}, {"data": [None, "/etc/passwd"]}, {"data": [None, 1]},
        {"data": [None, ["/etc/passwd"]]}, {"data": [None, {"url": "/etc/passwd", "meta": META}]},
        {"data": [None, {"path": None, "url": "http://127.0.0.1:1/", "meta": META}]},
        {"data": [{"video": 1}, None]}, {"fn_index": 4, "data": [None, {"a": 1}, "q"]},
    ],
)  # fmt: skip
def test_what_is_no_event_of_the_page_is_refused(server: Server, event: dict) -> None:
    body = {"data": [None, None], "fn_index": 0, "session_hash": "x", "trigger_id": 1, **event}
    types = {"Content_Type": "application/json"}
    status, text, _ = server.ask("POST", JOIN, json.dumps(body).encode(), **types)
    assert (status, text) == (
        400,
        "This is not an event of the current page; reload the page.",
    )


def test_a_queue_that_nobody_joined_ends_at_once(server: Server) -> None:
    status, text, _ = server.ask("GET", "/gradio_api/queue/data?session_hash=nobody")
    assert status == 200
    assert json.loads(text.removeprefix("data: "))["session_not_found"]
