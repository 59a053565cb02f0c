from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

SERVER = """
import asyncio, sys
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from finetune.web.server import listen
from finetune.web.serve.batching import Limits
from finetune.web.serve.process import run

async def slow(request):
    await asyncio.sleep(0.5)
    return PlainTextResponse("done")

app = Starlette(routes=[Route("/", slow)])
listening = listen("127.0.0.1", 0)
limits = Limits(header_seconds=0.4)
run(app, listening, limits,
    started=lambda: print(listening.getsockname()[1], flush=True))
print("stopped", flush=True)
"""


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert re.fullmatch(r"\d+\n", line)
    yield process, int(line)
    if process.poll() is None:
        process.kill()
    process.wait()
    process.stdout.close()


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.settimeout(5)
    return connection


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while part := connection.recv(4096):
        found += part
    return found


def test_a_head_that_never_ends_is_cut_off(server: tuple[subprocess.Popen[str], int]) -> None:
    _, port = server
    with connect(port) as silent, connect(port) as trickling, connect(port) as later:
        later.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        trickling.sendall(b"GET / HTTP/1.1\r\nX-A: ")
        started = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - started < 4:
                trickling.sendall(b"a")
                time.sleep(0.1)
        assert time.monotonic() - started < 3
        assert read_all(silent).startswith(b"HTTP/1.1 408 ")
        # A whole request is waited for, and its connection may then be used again, in time.
        got = b""
        while b"done" not in got:
            more = later.recv(4096)
            assert more, got
            got += more
        later.sendall(b"GET / HTTP/1.1\r\nX-A: ")
        assert b" 408 " in read_all(later)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_taken_on_is_answered_before_it_stops(
    server: tuple[subprocess.Popen[str], int], number: signal.Signals
) -> None:
    process, port = server
    with connect(port) as asking:
        asking.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.2)
        process.send_signal(number)
        assert b"done" in read_all(asking)
    assert process.wait(5) == 0
    assert process.stdout is not None
    assert process.stdout.read() == "stopped\n"
