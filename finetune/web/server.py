"""What the local pages share: templates, static files, the socket, and running until stopped."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import jinja2
import uvicorn
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from finetune.errors import ConfigError

_HERE = Path(__file__).parent

STATIC_FOLDER = _HERE / "static"
"""Scripts and style sheets, all of them our own."""

PORTS = range(8765, 8785)
"""Tried one after the other where no port is asked for."""


def templates() -> jinja2.Environment:
    """Returns the pages' templates; every value that is put into one is escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


class OwnFiles(StaticFiles):
    """Static files that a browser asks about each time, so that an update is seen at once."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC_FOLDER, follow_symlink=False)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Returns a file, or 304 where the browser has it."""
        response = await super().get_response(path, scope)
        if isinstance(response, FileResponse) or response.status_code == 304:
            response.headers["Cache-Control"] = "no-cache"
        return response


def listen(host: str, port: int | None) -> socket.socket:
    """Returns a socket that listens already: no other program can take its port any more.

    Args:
        host: Address or name of the interface.
        port: 0 takes any free port; None the first free one of `PORTS`.

    Raises:
        ConfigError: The port is taken, or the host is no address of this machine.
    """
    tried = list(PORTS) if port is None else [port]
    for number in tried:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"--host {host} is no address of this machine. Leave it out to be reachable from "
                "this machine alone."
            ) from error
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(128)
            found.set_inheritable(False)
            return found
        except OSError as error:
            found.close()
            if number == tried[-1]:
                reason = (error.strerror or "cannot be used").lower()
                raise ConfigError(
                    f"--port {number} on {host}: {reason}. Choose another, or 0 for any free one."
                ) from error
    raise ConfigError(f"--port {port} cannot be used.")


def make_server(app: ASGIApp, *, started: Callable[[], None] | None = None) -> uvicorn.Server:
    """Returns a server for ``run(sockets=[listening])``; it ends when `should_exit` is set.

    Args:
        app: The application.
        started: Called once it answers: the moment to open a browser.
    """
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        ws="none",
        h11_max_incomplete_event_size=64 << 10,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
    return _Server(config, started)


def run_server(
    app: ASGIApp, listening: socket.socket, *, started: Callable[[], None] | None = None
) -> None:
    """Serves until interrupted (SIGINT, SIGTERM); requests that are being answered are finished.

    Args:
        app: The application.
        listening: What `listen` returned.
        started: Called once it answers.

    Raises:
        KeyboardInterrupt: It was interrupted.
    """
    make_server(app, started=started).run(sockets=[listening])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self._tell is not None and self.started:
            self._tell()
