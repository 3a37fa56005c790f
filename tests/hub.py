"""A stand-in of the hub's API on loopback: repositories, commits, large files, downloads."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c" * 40
LARGE = 100_000  # bytes, from which on a file goes to the large file storage


class Hub:
    """What the stand-in holds and was told."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str] = {"Bearer hf_writes"}
        self.address = ""


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, value: object, code: int = 200) -> None:
        self.send(json.dumps(value).encode(), code, {"Content-Type": "application/json"})

    def send(self, body: bytes, code: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, what: str) -> None:
        self.send(b"", 404, {"X-Error-Code": what, "X-Error-Message": f"{what}"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if found := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)/tree/.*", path):
            return self.tree(found[1])
        if found := re.fullmatch(r"/api/(?:models|datasets)/([^/]+/[^/]+)(/revision/.*)?", path):
            if found[1] not in self.hub.files:
                return self.missing("RepoNotFound")
            siblings = [{"rfilename": name} for name in self.hub.files[found[1]]]
            return self.answer({"id": found[1], "sha": COMMIT, "siblings": siblings})
        found = re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/[^/]+/(.*)", path)
        body = self.hub.files.get(found[1], {}).get(found[2]) if found else None
        if body is None:
            return self.missing("EntryNotFound")
        etag = hashlib.sha256(body).hexdigest()
        return self.send(body, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def tree(self, name: str) -> None:
        if name not in self.hub.files:
            return self.missing("RepoNotFound")
        rows = [
            {"type": "file", "path": path, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
            for path, body in self.hub.files[name].items()
        ]
        return self.answer(rows)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.large[hashlib.sha256(body).hexdigest()] = body
        self.send(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        self.hub.requests.append(("POST", path))
        if self.headers.get("Authorization") not in self.hub.tokens:
            return self.send(b'{"error": "Invalid credentials"}', 401)
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.hub.private.setdefault(name, asked.get("visibility") == "private")
            self.hub.files.setdefault(name, {})
            return self.answer({"url": f"{self.hub.address}/{name}"})
        if path.endswith("/info/lfs/objects/batch"):
            return self.answer({"objects": [self.place(item) for item in self.lfs(body)]})
        name, action = re.fullmatch(
            r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path
        ).groups()
        return self.preupload(body) if action == "preupload" else self.commit(name, body)

    @staticmethod
    def lfs(body: bytes) -> list[dict]:
        return json.loads(body)["objects"]

    def place(self, item: dict) -> dict:
        upload = {"href": f"{self.hub.address}/large/{item['oid']}"}
        return {**item, "authenticated": True, "actions": {"upload": upload}}

    def preupload(self, body: bytes) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] > LARGE else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self.answer({"files": files})

    def commit(self, name: str, body: bytes) -> None:
        files = self.hub.files[name]
        for line in body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif row["key"] == "deletedFile":
                del files[value["path"]]
        url = f"{self.hub.address}/{name}/commit/{COMMIT}"
        self.answer({"success": True, "commitOid": COMMIT, "commitUrl": url})
