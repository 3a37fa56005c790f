"""11 ways in which a server lets a download down: each row is what it sends."""

import gzip
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from typing import NamedTuple

BODY = bytes(range(256)) * 1000
ENDLESS = 2**28  # bytes; more than any limit that a file of 256,000 bytes can have


class Answer(NamedTuple):
    """What a server sends."""

    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012
    body: Iterable[bytes] = (BODY,)


def sized(body: bytes, size: int) -> Answer:
    """A body under a Content-Length of its own."""
    return Answer(headers={"Content-Length": str(size)}, body=(body,))


HOSTILE: dict[str, Answer] = {
    "endless, without a length": Answer(body=repeat(bytes(2**20), ENDLESS // 2**20)),
    "longer than expected": sized(BODY + b"x", len(BODY) + 1),
    "shorter than expected": sized(BODY[:-1], len(BODY) - 1),
    "shorter than it says": sized(BODY[:1000], len(BODY)),
    "other bytes": sized(bytes(len(BODY)), len(BODY)),
    "no length that is one": Answer(headers={"Content-Length": "many"}),
    "an error page": Answer(500, body=(b"<html>",)),
    "nothing there": Answer(404, body=(b"<html>",)),
    "a redirection to itself": Answer(302, {"Location": "/file"}, ()),
    "a redirection to a file": Answer(302, {"Location": "file:///etc/passwd"}, ()),
    "a compressed bomb": Answer(
        headers={"Content-Encoding": "gzip"}, body=(gzip.compress(bytes(2**26)),)
    ),
}


@contextmanager
def served(answer: Answer) -> Iterator[tuple[str, list[int]]]:
    """A server on loopback; its address, and a list that gets the bytes it sent per request."""
    sent: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            sent.append(0)
            for part in answer.body:
                self.wfile.write(part)
                sent[-1] += len(part)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with _Quiet(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/file", sent
        server.shutdown()


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""
