"""ASGI application of the prediction server: page and HTTP API."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from finetune.errors import ConfigError, DecodeError
from finetune.messages import script_messages, translations
from finetune.prediction.onnx_engine import OnnxEngine
from finetune.prediction.predictions import PhotoPrediction
from finetune.prediction.predictor import Predictor
from finetune.web.messages import language_of
from finetune.web.security import Guard, Policy
from finetune.web.serve.batching import Batcher, Limits, QueueFullError
from finetune.web.serve.metrics import MEDIA_TYPE, Metrics, RequestMetrics
from finetune.web.serve.openapi import describe
from finetune.web.server import OwnFiles, client_disconnected, http_error, render

if TYPE_CHECKING:
    from finetune.prediction.torch_engine import TorchEngine

_PATHS = frozenset(
    (
        *("/", "/docs", "/v1/predict", "/v1/preview", "/v1/explain", "/v1/model"),
        *("/healthz", "/metrics", "/openapi.json"),
    )
)

_PHOTO_TYPES = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})
"""Bodies that are one photo, beside ``image/*``; the last is curl's default for any file."""


@dataclass(frozen=True, kw_only=True)
class UploadedPhoto:
    """Photo of a request; `name` is its file name in a form, None if it is the body itself."""

    name: str | None
    content: bytes


async def read_upload(request: Request, limits: Limits) -> list[UploadedPhoto]:
    """Returns the photos of a request; at least one.

    Raises:
        HTTPException: There is no photo, or the body has another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    photos = []
    if kind == "multipart/form-data":
        form = request.form(max_files=limits.request_photos, max_fields=16, max_part_size=1 << 16)
        async with form as fields:
            for _, item in fields.multi_items():
                if isinstance(item, UploadFile):
                    content = await item.read()
                    photos.append(UploadedPhoto(name=item.filename or "", content=content))
    elif kind in _PHOTO_TYPES or kind.startswith("image/"):
        if body := await request.body():
            photos = [UploadedPhoto(name=None, content=body)]
    else:
        raise HTTPException(415, f"Send a photo or a form, not {kind[:80]}.")
    if not photos:
        raise HTTPException(400, "The request contains no photo, or an empty file.")
    return photos


def serve_app(
    predictor: Predictor,
    policy: Policy,
    limits: Limits | None = None,
    *,
    log: Callable[[str], None] = lambda line: None,
) -> Starlette:
    """Returns the application of one predictor.

    Args:
        predictor: The predictor; set its `PredictConfig.max_pixels` to that of the limits.
        policy: Access policy.
        limits: Bounds on work and sizes.
        log: Receives one line a request: method, path, status, milliseconds, photos. It contains
            no file name, content or address.
    """
    return _Endpoints(predictor, policy, limits or Limits()).app(log)


class _Endpoints:
    def __init__(self, predictor: Predictor, policy: Policy, limits: Limits) -> None:
        self.predictor = predictor
        self.policy = policy
        self.limits = limits
        self.metrics = Metrics(lambda: self.batcher.photos)
        self.batcher = Batcher(predictor, self.limits, on_batch=self.metrics.batches.observe)
        self.queue_bytes = 0
        self.explainer = _explainer(predictor)
        self.description = describe(
            predictor.engines[0].metadata,
            self.limits,
            with_key=policy.token is not None,
            explains=self.explainer is not None,
        )

    def app(self, log: Callable[[str], None]) -> Starlette:
        routes = [
            Route("/", self.page),
            Route("/docs", self.docs),
            Route("/v1/predict", self.predict, methods=["POST"]),
            Route("/v1/preview", self.preview, methods=["POST"]),
            Route("/v1/model", self.model),
            Route("/openapi.json", self.openapi),
            Route("/healthz", self.health),
            Route("/metrics", self.prometheus),
            Mount("/static", OwnFiles(), name="static"),
        ]
        if self.explainer is not None:
            routes.append(Route("/v1/explain", self.explain, methods=["POST"]))
        return Starlette(
            routes=routes,
            lifespan=self.lifespan,
            exception_handlers={HTTPException: http_error, ClientDisconnect: client_disconnected},
            middleware=[
                Middleware(RequestMetrics, metrics=self.metrics, log=log, paths=_PATHS),
                Middleware(Guard, policy=self.policy),
            ],
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self.batcher.running():
            yield

    async def page(self, request: Request) -> Response:
        language = language_of(request)
        html = render(
            "serve.html",
            language=language,
            messages=script_messages(language, "serve"),
            _=translations(language, "serve").gettext,
            name=self.predictor.name,
            labels=self.predictor.engines[0].metadata.labels,
            explains=self.explainer is not None,
        )
        # Only this page may use the camera.
        return HTMLResponse(
            html,
            headers={
                "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
                "Vary": "Accept-Language",
            },
        )

    async def docs(self, request: Request) -> Response:
        address = f"{request.url.scheme}://{request.url.netloc}"
        return HTMLResponse(
            render(
                "serve_docs.html",
                name=self.predictor.name,
                address=address,
                key=self.policy.token is not None,
                paths=self.description["paths"],
            )
        )

    async def model(self, request: Request) -> Response:
        return JSONResponse([engine.metadata.to_dict() for engine in self.predictor.engines])

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(self.description)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "photos": self.batcher.photos})

    async def prometheus(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type=MEDIA_TYPE)

    async def predict(self, request: Request) -> Response:
        top = _top(request)
        with self._memory_for(request):
            photos = await self._upload(request)
            with self._reserved(len(photos)):
                predictions = await self._predictions(photos)
        request.state.photos = len(photos)
        if photos[0].name is None and predictions[0].error is not None:
            raise HTTPException(422, f"The photo cannot be opened: {predictions[0].error}.")
        return JSONResponse([prediction.to_dict(top) for prediction in predictions])

    async def preview(self, request: Request) -> Response:
        with self._memory_for(request):
            content = (await self._upload(request))[0].content
        request.state.photos = 1
        with self._reserved(1):
            try:
                async with asyncio.timeout(self.limits.response_seconds):
                    max_pixels = self.predictor.config.max_pixels
                    image = await self.batcher.run(lambda: _preview(content, max_pixels))
            except TimeoutError:
                raise HTTPException(504, _TIMED_OUT) from None
            except DecodeError as error:
                raise HTTPException(422, f"The photo cannot be opened: {error.reason}.") from error
        return Response(image, media_type="image/jpeg")

    async def explain(self, request: Request) -> Response:
        explainer = self.explainer
        if explainer is None:
            raise HTTPException(404, "This model does not support explanations.")
        with self._memory_for(request):
            content = (await self._upload(request))[0].content
        request.state.photos = 1
        label = request.query_params.get("label")
        if label is not None and label not in self.predictor.labels:
            raise HTTPException(400, "There is no such label.")
        with self._reserved(1):
            try:
                async with asyncio.timeout(self.limits.response_seconds):
                    chosen = label or (await self.batcher.predict(content)).label or ""
                    max_pixels = self.predictor.config.max_pixels
                    image = await self.batcher.run(
                        lambda: _heatmap(explainer(), content, chosen, max_pixels)
                    )
            except TimeoutError:
                raise HTTPException(504, _TIMED_OUT) from None
            except DecodeError as error:
                raise HTTPException(422, f"The photo cannot be opened: {error.reason}.") from error
        return Response(image, media_type="image/png")

    async def _upload(self, request: Request) -> list[UploadedPhoto]:
        # With a full queue, refuse without reading the body.
        if self.batcher.photos >= self.limits.queue_photos:
            with self._reserved(1):
                pass
        return await read_upload(request, self.limits)

    @contextlib.contextmanager
    def _memory_for(self, request: Request) -> Iterator[None]:
        length = request.headers.get("content-length", "")
        size = int(length) if length.isdecimal() and len(length) < 12 else self.limits.body_bytes
        if self.queue_bytes and self.queue_bytes + size > self.limits.queue_bytes:
            raise _queue_full(self.batcher)
        self.queue_bytes += size
        try:
            yield
        finally:
            self.queue_bytes -= size

    @contextlib.contextmanager
    def _reserved(self, count: int) -> Iterator[None]:
        try:
            with self.batcher.reserve(count):
                yield
        except QueueFullError:
            raise _queue_full(self.batcher) from None

    async def _predictions(self, photos: Sequence[UploadedPhoto]) -> list[PhotoPrediction]:
        try:
            async with asyncio.timeout(self.limits.response_seconds):
                return list(await asyncio.gather(*(self._prediction(photo) for photo in photos)))
        except TimeoutError:
            raise HTTPException(504, _TIMED_OUT) from None

    async def _prediction(self, photo: UploadedPhoto) -> PhotoPrediction:
        name = photo.name or None
        try:
            found = await self.batcher.predict(photo.content)
        except DecodeError as error:
            self.metrics.photos.labels("bad").inc()
            return PhotoPrediction.failed(name, error.reason)
        self.metrics.photos.labels("ok").inc()
        return replace(found, photo=name)


def _queue_full(batcher: Batcher) -> HTTPException:
    retry = {"Retry-After": str(batcher.retry_seconds)}
    return HTTPException(503, "The queue is full.", headers=retry)


_TIMED_OUT = "The prediction took too long."


PREVIEW_PIXELS = 448
"""Longer side of a preview."""


def _preview(content: bytes, max_pixels: int) -> bytes:
    from PIL import Image

    from finetune.photos.decode.isolated import decode_isolated

    pixels = decode_isolated(content, min_side_pixels=PREVIEW_PIXELS, max_pixels=max_pixels)
    image = Image.fromarray(pixels)
    image.thumbnail((PREVIEW_PIXELS, PREVIEW_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def _heatmap(engine: TorchEngine, content: bytes, label: str, max_pixels: int) -> bytes:
    from PIL import Image

    from finetune.prediction.explain import explain_photo

    image = explain_photo(engine, content, label, max_pixels=max_pixels)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def _explainer(predictor: Predictor) -> Callable[[], TorchEngine] | None:
    """Returns a function that returns the network to explain; None where all are exported files."""
    run = next((e.run for e in predictor.engines if isinstance(e, OnnxEngine) and e.run), None)
    if run is not None:

        @functools.cache
        def load() -> TorchEngine:
            from finetune.prediction.torch_engine import TorchEngine

            return TorchEngine.load(run)

        return load
    if "torch" not in sys.modules:
        return None
    from finetune.prediction.explain import explainable

    try:
        engine = explainable(predictor)
    except ConfigError:
        return None
    return lambda: engine


def _top(request: Request) -> int | None:
    text = request.query_params.get("top")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise HTTPException(400, "'top' must be an integer of at least 1.")
    return int(text[:9])
