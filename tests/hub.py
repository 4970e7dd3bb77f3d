"""A local fake of the Hugging Face hub: it answers what uploading and downloading a model ask.

Files are kept in memory and uploaded in the commit itself, as the hub has it for small ones.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40
TOKEN = "hf_of_a_test"


class FakeHub(ThreadingHTTPServer):
    """Serves repositories on a free port; each is a dict of its files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.refuses_writing = False

    @property
    def url(self) -> str:
        """Where it is, as HF_ENDPOINT says it."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve until the block ends."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    yield hub
    hub.shutdown()
    hub.server_close()
    thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        """Says nothing."""

    def _answer(self, value: object, status: int = 200, **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/api/whoami-v2":
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                return self._answer({"error": "Invalid token"}, 401)
            orgs = [{"name": "the-lab", "type": "org"}]
            return self._answer({"name": "somebody", "type": "user", "orgs": orgs})
        found = re.fullmatch(
            r"/(?:api/models/)?([^/]+/[^/]+)(?:/(revision|tree|resolve)/(.*))?", path
        )
        files = self.server.repositories.get(found[1]) if found else None
        if files is None:
            error = {"X_Error_Code": "RepoNotFound", "X_Error_Message": "Repository not found"}
            return self._answer({"error": "Repository not found"}, 404, **error)
        if found[2] == "resolve":
            name = found[3].partition("/")[2]
            if name not in files:
                return self._answer({}, 404, X_Error_Code="EntryNotFound")
            etag = f'"{_oid(files[name])}"'
            return self._answer(files[name], ETag=etag, X_Repo_Commit=COMMIT)
        if found[2] == "tree":
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
                for name, data in files.items()
            ]
            return self._answer(rows)
        siblings = [{"rfilename": name} for name in files]
        return self._answer({"id": found[1], "sha": COMMIT, "siblings": siblings})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.refuses_writing:
            return self._answer({"error": "Forbidden"}, 403)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization'] or 'somebody'}/{asked['name']}"
            self.server.repositories.setdefault(name, {".gitattributes": b""})
            self.server.private.setdefault(name, asked["visibility"] == "private")
            return self._answer({"url": f"{self.server.url}/{name}", "id": name})
        if self.path == "/api/validate-yaml":  # the header of README.md
            return self._answer({"errors": [], "warnings": []})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path)
        if found is None:
            return self._answer({"error": self.path}, 404)
        if found[2] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            rows = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            return self._answer({"files": rows})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                data = base64.b64decode(line["value"]["content"])
                self.server.repositories[found[1]][line["value"]["path"]] = data
        url = f"{self.server.url}/{found[1]}/commit/{COMMIT}"
        return self._answer({"commitUrl": url, "commitOid": COMMIT, "pullRequestUrl": None})


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
