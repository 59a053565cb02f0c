"""The process that serves: uvicorn, with a bound on how long the head of a request may take."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from finetune.web.serve.batching import Limits

_CONNECTIONS = 512
_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def run(
    app: ASGIApp,
    listening: socket.socket,
    limits: Limits,
    *,
    started: Callable[[], None] | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM; what has been taken on is answered first.

    Args:
        app: The application.
        listening: A socket that listens already.
        limits: Bounds of time.
        started: Called once the server answers.
    """
    # It warns of every broken form, which is answered with 400 and counted.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)

    class Patient(_TimedHead):
        header_seconds = limits.header_seconds

    config = uvicorn.Config(
        app,
        http=Patient,
        loop="asyncio",
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        ws="none",
        h11_max_incomplete_event_size=32 << 10,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(limits.answer_seconds),
    )
    _Server(config, started).run(sockets=[listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self._tell is not None and self.started:
            self._tell()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to stop; a second Ctrl-C stops at once. The signal is not raised again after."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


class _TimedHead(H11Protocol):
    """Closes connections whose request head does not come to an end in time.

    uvicorn itself waits for ever for it, so that a few idle lines a minute (slow loris) would hold
    a connection for good.
    """

    header_seconds: float = 10.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self._stop()
        if self._timer is None and (self.cycle is None or self.cycle.response_complete):
            # Data that began no request is a head that is not yet whole.
            self._start()

    def on_response_complete(self) -> None:
        before = self.cycle
        super().on_response_complete()
        if self.cycle is not before:
            self._stop()

    def _start(self) -> None:
        self._timer = self.loop.call_later(self.header_seconds, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_SLOW)
            self.transport.close()
