"""A hub of a few repositories on this machine: the answers that huggingface_hub waits for."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# What the hub calls what it refuses, and with which number.
REFUSALS = {"RepoNotFound": 404, "EntryNotFound": 404, "RevisionNotFound": 404, "GatedRepo": 403, "Broken": 500}


@dataclass
class LocalHub:
    """Repositories as folders below `root`; `asked` is every request, `refusals` repository -> what it refuses with."""

    root: Path
    address: str = ""
    asked: list[str] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)


@contextmanager
def serving(root: Path) -> Iterator[LocalHub]:
    """The hub while it is there."""
    hub = LocalHub(root)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._resolve(body=False)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/") and "/tree/" in path:
            repo = path.removeprefix("/api/models/").split("/tree/")[0]
            files = [file for file in (self.hub.root / repo).iterdir() if file.is_file()]
            self._json([{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"} for f in files])
        else:
            self._resolve(body=True)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.hub.asked.append(f"POST {self.path}")
        if self.path == "/api/repos/create":
            values = json.loads(data)
            repo = f"{values['organization']}/{values['name']}"
            if repo in self.hub.refusals:
                self._refuse(self.hub.refusals[repo])
                return
            (self.hub.root / repo).mkdir(parents=True, exist_ok=True)
            (self.hub.root / repo / ".private").write_text(
                str("private" in (values.get("visibility"), values.get("private") and "private"))
            )
            self._json({"url": f"{self.hub.address}/{repo}", "name": repo})
        elif "/preupload/" in self.path:
            files = json.loads(data)["files"]
            kinds = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self._json({"files": kinds})
        elif "/commit/" in self.path:
            self._commit(data)
        else:
            self._json({"errors": [], "warnings": []})

    def _commit(self, data: bytes) -> None:
        repo = self.path.removeprefix("/api/models/").split("/commit/")[0]
        for line in map(json.loads, data.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                (self.hub.root / repo / line["value"]["path"]).write_bytes(content)
        url = f"{self.hub.address}/{repo}/commit/{COMMIT}"
        self._json({"commitUrl": url, "commitOid": COMMIT, "success": True})

    def _resolve(self, *, body: bool) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        repo, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        file = self.hub.root / repo / name
        if repo in self.hub.refusals:
            self._refuse(self.hub.refusals[repo])
        elif not (self.hub.root / repo).is_dir():
            self._refuse("RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._refuse("RevisionNotFound")
        elif not file.is_file():
            self._refuse("EntryNotFound")
        else:
            data = file.read_bytes()
            self._answer(200, data if body else b"", {"ETag": f'"{name}-{len(data)}"'}, length=len(data))

    def _refuse(self, code: str) -> None:
        self._answer(REFUSALS[code], b"", {"X-Error-Code": code})

    def _json(self, values: Any) -> None:
        self._answer(200, json.dumps(values).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, data: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
