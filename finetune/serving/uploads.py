"""What a client sends, read within limits: one or many photos, multipart or raw bytes."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from fastapi import HTTPException, Request
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.types import Message

MAX_UPLOAD = 64 * 2**20  # bytes of one request
MAX_PHOTOS = 64  # of one request
MAX_REQUESTS = 128  # at once
MAX_HELD = 256 * 2**20  # bytes of all requests at once
READ_SECONDS = 30  # until a request has arrived
RETRY_SECONDS = 1


class Upload(NamedTuple):
    """One photo: its file's name, "" where none was given, and its bytes."""

    file: str
    data: bytes


@dataclass
class Admission:
    """What is in the server at once; what would be too much is turned away, and not queued.

    Attributes:
        requests: that are being answered.
        held: bytes of their bodies so far.
    """

    requests: int = 0
    held: int = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request's stay; HTTPException 503 if there are too many."""
        if self.requests >= MAX_REQUESTS:
            raise _busy()
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @asynccontextmanager
    async def uploads(self, request: Request) -> AsyncIterator[list[Upload]]:
        """Read a request's photos; their bytes count as held until they are done with.

        Raises:
            HTTPException: 400 (no form), 408 (too slow), 413 (too large), 422 (no photo) or 503
                (the server holds too much).
        """
        size = 0

        async def receive() -> Message:
            nonlocal size
            message = await request.receive()
            arrived = len(message.get("body", b""))
            size += arrived
            self.held += arrived
            if size > MAX_UPLOAD:
                raise _too_large(size)
            if self.held > MAX_HELD:
                raise _busy()
            return message

        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > MAX_UPLOAD:
            raise _too_large(int(declared))
        try:
            async with asyncio.timeout(READ_SECONDS):
                found = await _read(Request(request.scope, receive))
            yield found
        except TimeoutError as error:
            raise HTTPException(
                408, f"The request took longer than {READ_SECONDS} s to arrive. Send it again."
            ) from error
        finally:
            self.held -= size


async def _read(request: Request) -> list[Upload]:
    """The bytes say what they are; the header says no more than whether they are a form."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        found = [Upload("", await request.body())]
    else:
        try:
            async with request.form(max_files=MAX_PHOTOS, max_fields=MAX_PHOTOS) as form:
                files = [item for item in form.getlist("file") if isinstance(item, UploadFile)]
                found = [Upload(file.filename or "", await file.read()) for file in files]
        except FormParserError as error:
            raise HTTPException(400, f"This is no multipart form: {error}.") from error
    if not any(upload.data for upload in found):
        raise HTTPException(
            422,
            "There is no photo in this request. Send one as the body, or one or many in the "
            "multipart field 'file': curl -F file=@photo.jpg ADDRESS/predict.",
        )
    return found


def _too_large(size: int) -> HTTPException:
    return HTTPException(
        413,
        f"This request has {size:,} bytes or more; allowed are {MAX_UPLOAD:,}. Send smaller "
        "photos, or fewer at once.",
    )


def _busy() -> HTTPException:
    return HTTPException(
        503,
        "The server is full. Send this again in a moment.",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )
