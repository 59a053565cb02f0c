"""A page to drop photos on, and the HTTP interface behind it."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from finetune.errors import ConfigError, DecodeError
from finetune.prediction.predictions import PhotoPrediction
from finetune.prediction.predictor import Predictor
from finetune.web.security import Guard, Policy
from finetune.web.serve.batching import Batcher, Full, Limits
from finetune.web.serve.metrics import MEDIA_TYPE, Log, Metrics, Watch
from finetune.web.serve.openapi import describe
from finetune.web.serve.upload import Patience, Upload, UploadedPhoto, read_upload
from finetune.web.server import OwnFiles, templates

if TYPE_CHECKING:
    from finetune.prediction.torch_engine import TorchEngine

_PATHS = frozenset(
    ("/", "/v1/predict", "/v1/explain", "/v1/model", "/healthz", "/metrics", "/openapi.json")
)

_GRACE_SECONDS = 2.0
"""So much later than the body of a request that is read, one that is refused is given up."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How the server behaves.

    Attributes:
        policy: Who is let in.
        limits: How much is taken on.
        log: Told one line a request: method, path, status, milliseconds, photos. No name, no
            content, no address.
    """

    policy: Policy
    limits: Limits = field(default_factory=Limits)
    log: Log = lambda line: None


def serve_app(predictor: Predictor, options: ServeOptions) -> Starlette:
    """Returns the application of one predictor.

    Its `PredictConfig.max_pixels` bounds the photos; make the predictor with that of the limits.
    """
    return _Server(predictor, options).app()


class _Server:
    def __init__(self, predictor: Predictor, options: ServeOptions) -> None:
        self.predictor = predictor
        self.options = options
        self.limits = options.limits
        self.metrics = Metrics(lambda: self.batcher.photos)
        self.batcher = Batcher(
            predictor, self.limits, batched=lambda size: self.metrics.batches.observe(size)
        )
        self.engine = _explaining(predictor)
        self.description = describe(
            predictor.engines[0].metadata,
            self.limits,
            with_key=options.policy.token is not None,
            explains=self.engine is not None,
        )

    def app(self) -> Starlette:
        routes = [
            Route("/", self.page),
            Route("/v1/predict", self.predict, methods=["POST"]),
            Route("/v1/model", self.model),
            Route("/openapi.json", self.openapi),
            Route("/healthz", self.health),
            Route("/metrics", self.prometheus),
            Mount("/static", OwnFiles(), name="static"),
        ]
        if self.engine is not None:
            routes.append(Route("/v1/explain", self.explain, methods=["POST"]))
        return Starlette(
            routes=routes,
            lifespan=self.lifespan,
            exception_handlers={HTTPException: _refused, ClientDisconnect: _gone},
            middleware=[
                Middleware(Watch, metrics=self.metrics, log=self.options.log, paths=_PATHS),
                Middleware(Patience, seconds=self.limits.body_seconds + _GRACE_SECONDS),
                Middleware(Guard, policy=self.options.policy),
            ],
        )

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self.batcher.running():
            yield

    async def page(self, request: Request) -> Response:
        metadata = self.predictor.engines[0].metadata
        page = templates().get_template("serve.html")
        html = page.render(
            name=self.predictor.name,
            labels=metadata.labels,
            explains=self.engine is not None,
        )
        # The camera of this page alone; other pages of this server keep theirs shut.
        return HTMLResponse(
            html,
            headers={"Permissions-Policy": "camera=(self), microphone=(), geolocation=()"},
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
        upload = await self._upload(request)
        with self._places(len(upload.photos)):
            answers = await self._answers(upload.photos)
        request.state.photos = len(upload.photos)
        if not upload.is_form and answers[0].status != "ok":
            raise HTTPException(422, f"The photo cannot be opened: {answers[0].status}.")
        return JSONResponse([answer.to_dict(top) for answer in answers])

    async def explain(self, request: Request) -> Response:
        engine = self.engine
        if engine is None:
            raise HTTPException(404, "This model cannot be explained.")
        content = (await self._upload(request)).photos[0].content
        request.state.photos = 1
        label = request.query_params.get("label")
        if label is not None and label not in engine.metadata.labels:
            raise HTTPException(400, "There is no such label.")
        with self._places(1):
            try:
                async with asyncio.timeout(self.limits.answer_seconds):
                    if label is None:
                        label = (await self.batcher.predict(content)).label or ""
                    chosen = label
                    image = await self.batcher.run(lambda: _overlay(self, engine, content, chosen))
            except TimeoutError:
                raise HTTPException(504, "It took too long.") from None
            except DecodeError as error:
                raise HTTPException(422, f"The photo cannot be opened: {error.reason}.") from error
        return Response(image, media_type="image/png")

    async def _upload(self, request: Request) -> Upload:
        # What could not be taken anyway need not be read.
        if self.batcher.photos >= self.limits.queue_photos:
            with self._places(1):
                pass
        return await read_upload(request, self.limits)

    @contextlib.contextmanager
    def _places(self, count: int) -> Iterator[None]:
        try:
            with self.batcher.places(count):
                yield
        except Full:
            raise HTTPException(
                503,
                "The queue is full.",
                headers={"Retry-After": str(self.batcher.retry_seconds)},
            ) from None

    async def _answers(self, photos: Sequence[UploadedPhoto]) -> list[PhotoPrediction]:
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                return list(await asyncio.gather(*(self._answer(photo) for photo in photos)))
        except TimeoutError:
            raise HTTPException(504, "It took too long.") from None

    async def _answer(self, photo: UploadedPhoto) -> PhotoPrediction:
        try:
            found = await self.batcher.predict(photo.content)
        except DecodeError as error:
            self.metrics.photos.labels("bad").inc()
            return PhotoPrediction(photo=photo.name, status=error.reason)
        self.metrics.photos.labels("ok").inc()
        return PhotoPrediction(
            photo=photo.name, status="ok", ranked=found.ranked, unknown=found.unknown
        )


def _overlay(server: _Server, engine: TorchEngine, content: bytes, label: str) -> bytes:
    from PIL import Image

    from finetune.prediction.explain import explain_photo

    image = explain_photo(engine, content, label, max_pixels=server.predictor.config.max_pixels)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def _explaining(predictor: Predictor) -> TorchEngine | None:
    import sys

    if "torch" not in sys.modules:
        return None
    from finetune.prediction.explain import explainable

    try:
        return explainable(predictor)
    except ConfigError:
        return None


def _top(request: Request) -> int | None:
    text = request.query_params.get("top")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise HTTPException(400, "top must be a whole number from 1 on.")
    return int(text[:9])


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
