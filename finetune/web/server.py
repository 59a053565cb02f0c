"""HTTP server, templates and static files of the local pages."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import hypercorn.asyncio
import jinja2
from hypercorn.config import Config
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finetune.errors import ConfigError
from finetune.formatting import visible_text
from finetune.messages import marked

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework

_HERE = Path(__file__).parent

STATIC_FOLDER = _HERE / "static"
"""Scripts and style sheets; none from third parties."""

PORTS = range(8765, 8785)
"""Ports to try, in order, if none is given."""


def render(template: str, **values: object) -> str:
    """Returns a page from its Jinja template; all values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=visible_text,
    )
    return environment.get_template(template).render(**values)


class OwnFiles(StaticFiles):
    """Static files that a browser revalidates each time, so that updates appear at once."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC_FOLDER, follow_symlink=False)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Returns a file, or 304 if the browser's copy is current."""
        response = await super().get_response(path, scope)
        if isinstance(response, FileResponse) or response.status_code == 304:
            response.headers["Cache-Control"] = "no-cache"
        return response


def listen(host: str, port: int | None) -> socket.socket:
    """Returns a listening socket, which reserves its port.

    Args:
        host: Address or name of the interface.
        port: 0 for any free port; None for the first free one of `PORTS`.

    Raises:
        ConfigError: The port is in use, or the host is not an address of this machine.
    """
    tried = list(PORTS) if port is None else [port]
    for number in tried:
        try:
            family, _, _, _, address = socket.getaddrinfo(
                host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--host {host} is not an address of this machine. Leave it out to serve this "
                "machine only."
            ) from error
        try:
            dualstack = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
            return socket.create_server(
                address, family=family, backlog=128, dualstack_ipv6=dualstack
            )
        except OSError as error:
            if number == tried[-1]:
                reason = os.strerror(error.errno).lower() if error.errno else "cannot be used"
                raise ConfigError(
                    f"--port {number} on {host}: {reason}. Choose another, or 0 for any free port."
                ) from error
    raise ConfigError(f"--port {port} cannot be used.")


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """Bounds on connections and requests.

    Attributes:
        head_seconds: Deadline for the head of a request; also closes idle connections.
        body_seconds: Deadline for its body, counted from the head.
        requests: Requests handled at the same time; further ones get 503.
        shutdown_seconds: Time for open requests to finish when the server stops.
    """

    head_seconds: float = 15.0
    body_seconds: float = 30.0
    requests: int = 512
    shutdown_seconds: float = 5.0


class Server:
    """HTTP server for one ASGI application.

    Hypercorn, because its public `keep_alive_timeout` bounds request heads: it starts with the
    connection and with the end of each response, and ends when a head is complete. uvicorn has no
    such limit.

    Args:
        app: The application.
        listening: A listening socket; see `listen`.
        limits: Bounds on connections and requests.
    """

    def __init__(
        self, app: ASGIApp, listening: socket.socket, limits: ServerLimits | None = None
    ) -> None:
        self._limits = limits or ServerLimits()
        self._app = RequestLimits(app, self._limits)
        self._listening = listening
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serves until `stop`, SIGINT or SIGTERM; a second SIGINT cancels open requests."""
        # A message for each malformed form, which gets a 400 response.
        logging.getLogger("python_multipart").setLevel(logging.ERROR)
        with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
            asyncio.run(self._serve())

    def stop(self) -> None:
        """Stops the server; may be called from any thread and from a signal handler."""
        self._stopping.set()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._stop_requested.set)

    async def _serve(self) -> None:
        self._stop_requested = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_report_unless_cancelled)
        if self._stopping.is_set():
            return
        config = Config()
        config.bind = [f"fd://{self._listening.dup().detach()}"]
        config.keep_alive_timeout = self._limits.head_seconds
        config.graceful_timeout = self._limits.shutdown_seconds
        config.h11_max_incomplete_size = 64 << 10
        config.include_server_header = config.include_date_header = False
        config.loglevel = "ERROR"
        with self._stopped_by_signals():
            await hypercorn.asyncio.serve(
                cast("ASGIFramework", self._app),
                config,
                shutdown_trigger=self._stop_requested.wait,
                mode="asgi",
            )

    @contextlib.contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            signal.signal(number, before[number])
            self.stop()

        numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _report_unless_cancelled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Python 3.11 reports each connection that is cancelled when the server stops.
    if not isinstance(context.get("exception"), asyncio.CancelledError):
        loop.default_exception_handler(context)


class RequestLimits:
    """ASGI middleware that bounds concurrent requests and the time for their bodies.

    A client whose body exceeds the deadline counts as disconnected.
    """

    def __init__(self, app: ASGIApp, limits: ServerLimits) -> None:
        self._app = app
        self._limits = limits
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on within the limits."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._open >= self._limits.requests:
            busy = JSONResponse(
                {"error": marked("The server has too many open requests. Try again.")},
                503,
                headers={"Retry-After": "1", "Connection": "close"},
            )
            await busy(scope, receive, send)
            return
        self._open += 1
        try:
            await self._app(scope, *self._with_deadline(scope, receive, send))
        finally:
            self._open -= 1

    def _with_deadline(self, scope: Scope, receive: Receive, send: Send) -> tuple[Receive, Send]:
        deadline = asyncio.get_running_loop().time() + self._limits.body_seconds
        names = {name for name, _ in scope["headers"]}
        has_body = not names.isdisjoint({b"content-length", b"transfer-encoding"})
        complete = False

        async def receive_in_time() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                scope.setdefault("state", {})["timed_out"] = True
                return {"type": "http.disconnect"}
            complete = not message.get("more_body", False)
            return message

        async def send_and_close_if_unread(message: Message) -> None:
            # Hypercorn closes after an unread body; without the header the client may reuse it.
            if message["type"] == "http.response.start" and has_body and not complete:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            await send(message)

        return receive_in_time, send_and_close_if_unread


def http_error(request: Request, error: Exception) -> Response:
    """Returns an `HTTPException` as JSON: ``{"error": ...}``."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def client_disconnected(request: Request, error: Exception) -> Response:
    """Returns 408 for a body past its deadline, else 499 (nginx: client closed request)."""
    if not getattr(request.state, "timed_out", False):
        return Response(status_code=499)
    late = {"error": "The body of the request arrived too slowly."}
    return JSONResponse(late, 408)
