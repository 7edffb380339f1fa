"""A small stand-in for Hugging Face's hub: repositories of whole files in memory, over HTTP."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """Repositories, kind/owner/name → path → contents, and the requests that came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, object] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running_hub():
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        data = self._body()
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"POST {path}")
        if path == "/api/repos/create":
            asked = json.loads(data)
            kind, name = asked.get("type") or "model", asked["name"]
            if asked.get("organization"):
                name = f"{asked['organization']}/{name}"
            key = f"{kind}s/{name}"
            self.server.repositories.setdefault(key, {})
            self.server.private[key] = asked.get("private", asked.get("visibility"))
            return self._json({"url": f"{self.server.url}/{'' if kind == 'model' else kind + 's/'}{name}"})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        words = [*path.removeprefix("/api/").split("/"), ""]
        key, action = "/".join(words[:3]), words[3]
        if action == "preupload":
            files = json.loads(data)["files"]
            answer = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            return self._json({"files": answer})
        if action == "commit":
            for line in data.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    contents = base64.b64decode(entry["value"]["content"])
                    self.server.repositories[key][entry["value"]["path"]] = contents
            return self._json(
                {"commitUrl": f"{self.server.url}/{key}/commit/{'0' * 40}", "commitOid": "0" * 40}
            )
        return self._answer(404, b"")

    def do_GET(self) -> None:
        self._file_or_info(body=True)

    def do_HEAD(self) -> None:
        self._file_or_info(body=False)

    def _file_or_info(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if path.startswith("/api/"):
            words = path.removeprefix("/api/").split("/")
            key = "/".join(words[:3])
            files = self.server.repositories.get(key)
            if files is None:
                return self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if len(words) > 3 and words[3] == "tree":
                listing = [
                    {"type": "file", "path": p, "size": len(d), "oid": _oid(d)} for p, d in files.items()
                ]
                return self._json(listing)
            siblings = [{"rfilename": p, "size": len(d), "blobId": _oid(d)} for p, d in files.items()]
            return self._json({"id": "/".join(words[1:3]), "sha": "0" * 40, "siblings": siblings})
        place, _, name = path.strip("/").partition("/resolve/")
        key = place if place.startswith("datasets/") else f"models/{place}"
        data = self.server.repositories.get(key, {}).get(name.partition("/")[2])
        if data is None:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": "0" * 40}
        return self._answer(200, data, headers, body=body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, document: object) -> None:
        self._answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _answer(
        self, code: int, data: bytes, headers: dict[str, str] | None = None, *, body: bool = True
    ) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
