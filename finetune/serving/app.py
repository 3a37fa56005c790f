"""The routes of `finetune serve`: predictions, evidence, health, metrics and one page."""

import asyncio
import io
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image, UnidentifiedImageError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import ClientDisconnect

from finetune import __version__
from finetune.backend import threads
from finetune.data.decode import FORMATS, BadPhoto, TooLarge, decode
from finetune.serving.batching import Batcher
from finetune.serving.metrics import Metrics
from finetune.serving.network import Served
from finetune.serving.uploads import MAX_PHOTOS, MAX_UPLOAD, Admission, Upload

BATCH = 32  # photos that are computed together at most
_DECODED = 64  # photos that are decoded or wait decoded, over all requests
_SIDE = 448  # of the picture with the evidence, in pixels
# The page holds its own script and style, and talks to this server alone.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
Top = Annotated[int, Query(ge=1, description="How many classes to name, the most probable first.")]
ClassName = Annotated[
    str | None, Query(alias="class", description="Whose evidence; default: the predicted one's.")
]
_Row = tuple[np.ndarray, np.ndarray | None]


@dataclass
class Service:
    """One served network: its threads, its limits and its routes.

    Attributes:
        served: the network.
        metrics: what ``GET /metrics`` answers.
        admission: what is in the server.
    """

    served: Served
    metrics: Metrics = field(default_factory=Metrics)
    admission: Admission = field(default_factory=Admission)

    def __post_init__(self) -> None:
        self._decoders = ThreadPoolExecutor(threads(), "decode")
        self._batcher = Batcher(self.served.rows, BATCH, self.metrics.batches.observe)
        self._decoded = asyncio.Semaphore(_DECODED)

    def close(self) -> None:
        """Finish what was begun, and end the threads."""
        self._decoders.shutdown()
        self._batcher.close()

    async def predict(self, request: Request, top: Top = 1) -> dict[str, Any]:
        """Classify one photo or many.

        One photo's answer has ``class``, ``probability`` and ``top``; that of many has these of
        each in ``predictions``, in order, and in ``bad`` the reasons of those that are no photos.
        """
        with self.admission.request():
            async with self.admission.uploads(request) as uploads:
                found = await asyncio.gather(*map(self._answer, uploads))
        answers = [self._prediction(*pair, top) for pair in zip(uploads, found, strict=True)]
        bad = [error for error in found if isinstance(error, BadPhoto)]
        if len(bad) == len(uploads):
            raise _refused(bad[0])
        if len(uploads) == 1:
            return answers[0]
        return {
            "predictions": [answer for answer in answers if "class" in answer],
            "bad": [answer for answer in answers if "reason" in answer],
        }

    async def explain(self, request: Request, class_name: ClassName = None) -> Response:
        """One photo with the evidence for a class drawn over it (Grad-CAM), as PNG; the
        header ``X-Evidence`` is none where there is none.
        """
        if self.served.head is None:
            raise HTTPException(501, "This network's head is none that can be explained here.")
        classes = self.served.classifier.classes
        if class_name is not None and class_name not in classes:
            raise HTTPException(422, f"There is no class '{class_name}'; see GET /metadata.")
        with self.admission.request():
            async with self.admission.uploads(request) as uploads:
                if len(uploads) > 1:
                    raise HTTPException(422, "Send one photo at a time to be explained.")
                row = await self._answer(uploads[0])
                if isinstance(row, BadPhoto):
                    raise _refused(row)
                label = int(row[0].argmax()) if class_name is None else classes.index(class_name)
                loop = asyncio.get_running_loop()
                png, seen = await loop.run_in_executor(
                    self._decoders, self._drawn, uploads[0].data, row[1], label
                )
        headers = {"X-Evidence": "some" if seen else "none"}
        return Response(png, headers=headers, media_type="image/png")

    async def healthz(self) -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    async def metadata(self) -> dict[str, Any]:
        """What is served, and within which limits."""
        limits = {"bytes": MAX_UPLOAD, "photos": MAX_PHOTOS}
        return {**self.served.about, "version": __version__, "limits": limits}

    async def figures(self) -> Response:
        """Prometheus's text format."""
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def page(self) -> HTMLResponse:
        """The page on which a photo is dropped."""
        text = files("finetune.serving").joinpath("page.html").read_text("utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY})

    async def _answer(self, upload: Upload) -> _Row | BadPhoto:
        """Probabilities and maps of a photo, or why it is none."""
        classifier = self.served.classifier
        loop = asyncio.get_running_loop()
        async with self._decoded:
            try:
                pixels = await loop.run_in_executor(
                    self._decoders, decode, upload.data, classifier.image_size, classifier.resize
                )
            except BadPhoto as error:
                return error
            row = await asyncio.wrap_future(self._batcher.submit(pixels))
        self.metrics.photos.inc()
        return row

    def _prediction(self, upload: Upload, found: _Row | BadPhoto, top: int) -> dict[str, Any]:
        if isinstance(found, BadPhoto):
            return {"file": upload.file, "reason": str(found)}
        classes = self.served.classifier.classes
        order = (-found[0]).argsort(kind="stable")[:top]
        best = [{"class": classes[i], "probability": round(float(found[0][i]), 6)} for i in order]
        return {"file": upload.file, **best[0], "top": best}

    def _drawn(self, data: bytes, maps: np.ndarray | None, label: int) -> tuple[bytes, bool]:
        from finetune.evaluation.overlays import open_photo, overlay, spread  # matplotlib: slow

        assert self.served.head
        assert maps is not None
        photo = open_photo(data, _SIDE)
        heat = self.served.head.heat(maps, label)
        file = io.BytesIO()
        wide = spread(heat, photo.size, self.served.classifier.resize)
        overlay(photo, wide).save(file, "PNG")
        return file.getvalue(), bool(heat.any())


def make_app(service: Service) -> FastAPI:
    """The routes of a service; the documentation pages, which load scripts from elsewhere, are
    left out.
    """
    app = FastAPI(title="finetune", version=__version__, docs_url=None, redoc_url=None)
    reading: dict[str, Callable[..., Any]] = {
        "/": service.page,
        "/healthz": service.healthz,
        "/metadata": service.metadata,
        "/metrics": service.figures,
    }
    for path, route in reading.items():
        app.add_api_route(path, route, methods=["GET"])
    for path, route in (("/predict", service.predict), ("/explain", service.explain)):
        app.add_api_route(path, route, methods=["POST"], response_model=None)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> Response:
        wrong = error.errors()[0]
        return JSONResponse({"detail": f"{wrong['loc'][-1]}: {wrong['msg']}."}, 422)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # that nobody reads

    @app.middleware("http")
    async def measured(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        started = time.perf_counter()
        response = await call_next(request)
        service.metrics.answered(
            request.url.path, response.status_code, time.perf_counter() - started
        )
        return response

    return app


def _refused(bad: BadPhoto) -> HTTPException:
    """413 for too many pixels, 415 for an unknown format, 422 for a photo that is broken."""
    cause = bad.__cause__
    if isinstance(cause, TooLarge | Image.DecompressionBombError):
        return HTTPException(413, f"This photo has too many pixels: {str(cause).rstrip('.')}.")
    if isinstance(cause, UnidentifiedImageError):
        known = ", ".join(FORMATS)
        return HTTPException(415, f"This is no photo in a known format. Allowed are {known}.")
    return HTTPException(422, f"This photo cannot be decoded: {bad}.")
