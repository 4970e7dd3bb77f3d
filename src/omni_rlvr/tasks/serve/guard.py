"""Middleware that refuses requests which the page itself never makes.

Gradio answers many more addresses than the page needs: proxies, downloads by URL, editors, calls
that bypass the queue. This file says which addresses are answered, to which hosts and origins, how
large a request may be, and that a file in a request must be one that a visitor uploaded. All of it
is checked before Gradio sees the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni_rlvr.tasks.serve.uploads import Uploads
from omni_rlvr.types import UserError

API = "/gradio_api"
UPLOAD, FILE, JOIN = f"{API}/upload", f"{API}/file=", f"{API}/queue/join"
READ = re.compile(
    r"/(?:|config|theme\.css|favicon\.ico|manifest\.json|robots\.txt"
    r"|(?:static|assets|svelte)/.*"
    rf"|{API[1:]}/(?:queue/data|upload_progress|heartbeat/[^/]+|file=.*|startup-events|theme\.css))"
)
"""Addresses that answer GET and HEAD."""
WRITTEN = (UPLOAD, JOIN, f"{API}/cancel", f"{API}/reset")
"""Addresses that answer POST."""
MAX_JSON = 100_000
"""The most bytes of a request that is not an upload."""
FORM_BYTES = 10_000
"""Most bytes of an upload that are not the file but the form around it."""
MAX_DISCARDED = 64_000_000
"""The most bytes of a refused request that are read, so that its sender receives the answer."""
MAX_DISCARDING_S = 10
"""The most seconds that reading a refused request may take."""
COOKIE = "omni_rlvr_visitor"
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
"""Headers of every answer: no other site may show the page in a frame or load what it serves."""


class Refused(Exception):
    """A request that is not answered: the HTTP status and a sentence for the visitor."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class Guard:
    """Middleware that lets only the page's own requests through."""

    def __init__(
        self,
        app: ASGIApp,
        uploads: Uploads,
        *,
        events: Mapping[int, Sequence[bool]],
        hosts: Sequence[str],
        by_address: bool,
        port: int,
    ):
        """Protect an application.

        Args:
            app: The application.
            uploads: The folder of visitors' files and its limits.
            events: The page's events by number; of each of its inputs, whether it is a file.
            hosts: Names under which the page answers, in lower case. Another site could point its
                own name at this machine (DNS rebinding); that name is not among these.
            by_address: Whether the page answers under any IP address too. No other site can point
                an address at this machine.
            port: The port of the page, so that the cookies of two pages on one machine differ.
        """
        self.app, self.uploads, self.events = app, uploads, events
        self.hosts, self.by_address = frozenset(hosts), by_address
        self.cookie = f"{COOKIE}_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or hand it to the application."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # the page uses none
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        send = self._with_headers(request, send)
        try:
            self._check_sender(request)
            self._check_address(request)
            if request.method == "POST":
                await self._post(request, send)
            else:
                await self.app(scope, receive, send)
        except Refused as refused:
            await _refuse(request, refused, send)
        except RuntimeError as error:
            if not isinstance(error.__cause__, HTTPException):
                raise
            # Gradio raised after the answer had begun, as no visitor had joined that queue.
            await send({"type": "http.response.body", "body": b""})

    def _check_sender(self, request: Request) -> None:
        """Refuse other names of this machine, and pages of other origins."""
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        try:
            name = urlsplit(f"//{host}").hostname or ""  # in lower case, without the port
        except ValueError:
            name = ""
        if name not in self.hosts and not (self.by_address and _is_address(name)):
            raise Refused(
                400,
                f"This page does not answer as {host!r}; whoever serves it can add the name: "
                "task.allowed_hosts=[NAME]",
            )
        if origin is not None and _netloc(origin) != _netloc(f"//{host}", like=origin):
            raise Refused(403, f"Requests from {origin!r} are refused; open the page itself.")
        site = request.headers.get("sec-fetch-site", "none")
        opens = request.headers.get("sec-fetch-mode") == "navigate" and request.method == "GET"
        if site not in ("same-origin", "none") and not opens:
            raise Refused(403, f"Requests from another site ({site}) are refused.")

    def _check_address(self, request: Request) -> None:
        """Refuse addresses that the page never asks for, and files that were not uploaded."""
        path, method = request.scope["path"], request.method
        known = READ.fullmatch(path) if method in ("GET", "HEAD") else path in WRITTEN
        if method not in ("GET", "HEAD", "POST") or not known:
            raise Refused(404, "There is nothing here.")
        if path.startswith(FILE) and not self.uploads.holds(path.removeprefix(FILE)):
            raise Refused(403, "No such file was uploaded here.")

    async def _post(self, request: Request, send: Send) -> None:
        promised = request.headers.get("content-length", "")  # the server enforces it
        if not promised.isdecimal():
            raise Refused(411, "The request does not say how long it is (Content-Length).")
        size = int(promised)
        if request.scope["path"] == UPLOAD:
            await self._upload(request, size, send)
            return
        if size > MAX_JSON:
            raise Refused(413, f"The request has {size} bytes; at most {MAX_JSON} are taken.")
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            raise Refused(400, "The request is not JSON.") from error
        for path in _paths(body):
            if not self.uploads.holds(path):
                raise Refused(403, "A file in the request was not uploaded, or is gone; add it.")
        if request.scope["path"] == JOIN and not self._is_event(body):
            raise Refused(400, "This is not an event of the current page; reload the page.")
        # Serialised again, so that Gradio reads exactly the values that were checked.
        checked = {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

        async def receive() -> Message:
            return checked

        await self.app(request.scope, receive, send)

    def _is_event(self, body: Any) -> bool:
        """Tell whether a request is an event of the page, with the values and files it takes."""
        match body:
            case {"fn_index": int(number), "data": list(values)} if number in self.events:
                files = self.events[number]
                return len(values) == len(files) and all(map(_fits, values, files))
        return False

    async def _upload(self, request: Request, size: int, send: Send) -> None:
        address = request.client.host if request.client else ""
        visitor = request.cookies.get(self.cookie) or address
        size = max(0, size - FORM_BYTES)
        try:
            self.uploads.reserve(visitor, size)
        except UserError as error:
            raise Refused(413, str(error)) from error
        answer = bytearray()

        async def keep(message: Message) -> None:
            answer.extend(message.get("body", b""))
            await send(message)

        plain = [pair for pair in request.scope["headers"] if pair[0] != b"accept-encoding"]
        try:
            await self.app({**request.scope, "headers": plain}, request.receive, keep)
        finally:
            self.uploads.release(visitor, size, _listed(answer))

    def _with_headers(self, request: Request, send: Send) -> Send:
        fresh = request.scope["path"] == "/" and self.cookie not in request.cookies

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if fresh:
                    response = Response()
                    response.set_cookie(
                        self.cookie, secrets.token_urlsafe(16), httponly=True, samesite="strict"
                    )
                    headers.append("set-cookie", response.headers["set-cookie"])
            await send(message)

        return sent


def _paths(body: Any) -> Iterator[str]:
    """Yield every file that a request names, at any depth."""
    left = [body]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if value.get("path") is not None:
                yield str(value["path"])
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def _fits(value: Any, is_file: bool) -> bool:
    """Tell whether a value is a file as the page gives it, or none; or else a plain value."""
    match value:
        case None | {"path": str(), "meta": {"_type": "gradio.FileData"}}:
            return is_file or value is None
    return not is_file and not isinstance(value, dict | list)


def _listed(answer: bytearray) -> list[str]:
    """Read the files that the answer to an upload lists; none if it was refused."""
    try:
        listed = json.loads(bytes(answer))
    except ValueError:
        return []
    return [str(path) for path in listed] if isinstance(listed, list) else []


async def _refuse(request: Request, refused: Refused, send: Send) -> None:
    """Answer at once, then discard what is still coming, or its sender would see a reset."""
    response = PlainTextResponse(str(refused), refused.status)
    start = {"status": refused.status, "headers": response.raw_headers}
    await send({"type": "http.response.start", **start})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    left = MAX_DISCARDED
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(MAX_DISCARDING_S):
            while left > 0:
                message = await request.receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    break
    await send({"type": "http.response.body", "body": b""})


def _netloc(url: str, like: str = "") -> tuple[str, int | None] | None:
    """Split a URL into host and port; None for a text without a host, such as "null"."""
    try:
        parts = urlsplit(url)
        scheme = parts.scheme or urlsplit(like).scheme
        port = parts.port or {"http": 80, "https": 443}.get(scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
