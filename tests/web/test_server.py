from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message

from finetune.errors import ConfigError
from finetune.web.server import (
    RequestLimits,
    Server,
    ServerLimits,
    client_disconnected,
    listen,
)

PROGRAM = """
import asyncio
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from finetune.web.server import Server, ServerLimits, listen

async def slow(request):
    await request.body()
    await asyncio.sleep(0.5)
    return PlainTextResponse("done")

app = Starlette(routes=[Route("/", slow, methods=["GET", "POST"])])
listening = listen("127.0.0.1", 0)
print(listening.getsockname()[1], flush=True)
Server(app, listening, ServerLimits(shutdown_seconds=20)).run()
print("stopped", flush=True)
"""

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc"


@pytest.fixture
def process() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server in a process of its own, and its port."""
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert started.stdout is not None
    line = started.stdout.readline()
    assert re.fullmatch(r"\d+\n", line)
    yield started, int(line)
    if started.poll() is None:
        started.kill()
    started.communicate()


async def echo(request: Request) -> Response:
    body = await request.body()
    await asyncio.sleep(0.1)
    return PlainTextResponse(f"got {len(body)}")


async def refuse(request: Request) -> Response:
    return PlainTextResponse("too large", 413)


@pytest.fixture
def port() -> Iterator[int]:
    """Port of a server in a thread, with short deadlines."""
    app = Starlette(
        routes=[
            Route("/", echo, methods=["GET", "POST"]),
            Route("/refuse", refuse, methods=["POST"]),
        ],
        exception_handlers={ClientDisconnect: client_disconnected},
    )
    with listen("127.0.0.1", 0) as listening:
        limits = ServerLimits(head_seconds=0.4, body_seconds=0.4, requests=2, shutdown_seconds=1)
        server = Server(app, listening, limits)
        thread = threading.Thread(target=server.run)
        thread.start()
        yield listening.getsockname()[1]
        server.stop()
        thread.join(10)
        assert not thread.is_alive()


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.settimeout(5)
    return connection


def read_all(connection: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(4096):
            found += part
    return found


def read_until(connection: socket.socket, end: bytes) -> bytes:
    found = b""
    while end not in found:
        part = connection.recv(4096)
        assert part, found
        found += part
    return found


def test_half_sent_heads_are_cut_off(port: int) -> None:
    with connect(port) as silent, connect(port) as trickling, connect(port) as later:
        later.sendall(GET)
        started = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            trickling.sendall(b"GET / HTTP/1.1\r\nX-A: ")
            while time.monotonic() - started < 4:
                trickling.sendall(b"a")
                time.sleep(0.1)
        assert time.monotonic() - started < 3
        assert read_all(silent) == b""
        # A connection may be used again; then the deadline starts anew.
        read_until(later, b"got 0")


def test_a_second_request_on_a_connection_has_the_same_deadline(port: int) -> None:
    with connect(port) as connection:
        for _ in range(2):
            connection.sendall(GET)
            read_until(connection, b"got 0")
        connection.sendall(b"GET / HTTP/1.1\r\nX-A: ")
        started = time.monotonic()
        assert read_all(connection) == b""
        assert time.monotonic() - started < 3


def test_half_sent_bodies_are_cut_off(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(HALF_BODY)
        started = time.monotonic()
        answer = read_all(connection)
        assert time.monotonic() - started < 3
    assert answer.startswith(b"HTTP/1.1 408")
    assert answer.endswith(b'{"error":"The body of the request arrived too slowly."}')


def test_a_connection_with_an_unread_body_is_announced_as_closing(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        answer = read_all(connection).lower()
    assert answer.startswith(b"http/1.1 413")
    assert answer.count(b"connection: close") == 1


def test_a_connection_with_a_read_body_stays_open(port: int) -> None:
    with connect(port) as connection:
        for _ in range(2):
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
            assert b"connection: close" not in read_until(connection, b"got 3").lower()


def test_requests_beyond_the_bound_get_503(port: int) -> None:
    with connect(port) as first, connect(port) as second, connect(port) as third:
        for connection in (first, second):
            connection.sendall(HALF_BODY)
        time.sleep(0.1)
        third.sendall(GET)
        answer = read_all(third)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in answer.lower()


def test_a_client_that_disconnects_leaves_no_traceback(
    port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with connect(port) as connection:
        connection.sendall(HALF_BODY)
        time.sleep(0.1)
    with connect(port) as connection:
        connection.sendall(GET)
        read_until(connection, b"got 0")
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_open_requests_are_answered_before_the_server_stops(
    process: tuple[subprocess.Popen[str], int], number: signal.Signals
) -> None:
    server, port = process
    with connect(port) as waiting, connect(port) as idle:
        waiting.sendall(GET)
        time.sleep(0.3)
        server.send_signal(number)
        assert b"done" in read_all(waiting)
        assert read_all(idle) == b""
    assert server.communicate(timeout=5) == ("stopped\n", "")
    assert server.returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_second_interrupt_stops_at_once(process: tuple[subprocess.Popen[str], int]) -> None:
    server, port = process
    with connect(port) as stalled:
        stalled.sendall(HALF_BODY)
        time.sleep(0.3)
        server.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert server.poll() is None
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=5) == ("stopped\n", "")


def test_stop_cancels_open_requests_after_the_shutdown_time(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def wait_forever(request: Request) -> Response:
        await asyncio.sleep(60)
        return PlainTextResponse("never")

    app = Starlette(routes=[Route("/", wait_forever)])
    with listen("127.0.0.1", 0) as listening:
        server = Server(app, listening, ServerLimits(shutdown_seconds=0.2))
        thread = threading.Thread(target=server.run)
        thread.start()
        with connect(listening.getsockname()[1]) as connection:
            connection.sendall(GET)
            time.sleep(0.3)
            server.stop()
            thread.join(5)
        assert not thread.is_alive()
    assert capfd.readouterr().err == ""


def run_alone(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine in a thread, since a browser test may have left a loop in this one."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(work)))
    thread.start()
    thread.join()
    return found[0]


def received(
    receive: Callable[[], Coroutine[Any, Any, Message]], count: int, *, kind: str, seconds: float
) -> list[Message]:
    """Returns what an application behind `RequestLimits` receives."""
    found: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(count):
            async with asyncio.timeout(30):
                found.append(await receive())

    async def send(message: Message) -> None:
        pass

    limits = ServerLimits(body_seconds=seconds)
    run_alone(RequestLimits(app, limits)({"type": kind, "headers": []}, receive, send))
    return found


def test_a_body_past_its_deadline_counts_as_a_disconnect() -> None:
    first = {"type": "http.request", "body": b"a", "more_body": True}
    waiting = [first]

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    found = received(receive, 2, kind="http", seconds=0.05)
    assert found == [first, {"type": "http.disconnect"}]


def test_a_complete_body_has_no_deadline() -> None:
    whole = {"type": "http.request", "body": b"a", "more_body": False}
    waiting: list[Message] = [whole, {"type": "http.disconnect"}]

    async def receive() -> Message:
        if len(waiting) == 1:
            await asyncio.sleep(0.2)
        return waiting.pop(0)

    assert received(receive, 2, kind="http", seconds=0.1) == [whole, {"type": "http.disconnect"}]


def test_lifespan_messages_have_no_deadline() -> None:
    start = {"type": "lifespan.startup"}

    async def receive() -> Message:
        return start

    assert received(receive, 1, kind="lifespan", seconds=0.0) == [start]


def test_a_port_in_use_is_reported() -> None:
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(ConfigError) as error:
            listen("127.0.0.1", port)
    assert str(error.value) == (
        f"--port {port} on 127.0.0.1: address already in use. Choose another, or 0 for any free "
        "port."
    )


def test_a_foreign_address_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"^--port \d+ on 192\.0\.2\.1: .*\. Choose another"):
        listen("192.0.2.1", 8765)
    with pytest.raises(ConfigError, match=r"^--host nowhere\.invalid is not an address"):
        listen("nowhere.invalid", None)
