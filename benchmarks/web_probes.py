"""Sends hostile requests to `finetune serve` and `finetune annotate`.

    python benchmarks/web_probes.py runs/NAME PHOTOS

Wrong methods, hosts, origins, tokens, paths, headers and bodies, as bytes on a socket. Each must
get an answer below 500 or a closed connection, and a good request must still work after it. Prints
what is not as expected, and the number of probes. PHOTOS is copied before it is labeled.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

Probe = tuple[str, bytes]

PORTS = {"serve": 8941, "annotate": 8942}
SECONDS = 30.0
OPENING = {"serve": "/healthz", "annotate": "/"}
PATHS = {
    "serve": (
        "/",
        "/v1/predict",
        "/v1/preview",
        "/v1/explain",
        "/v1/model",
        "/healthz",
        "/metrics",
        "/docs",
    ),
    "annotate": (
        "/",
        "/api/act",
        "/api/labels",
        "/api/undo",
        "/api/photos",
        "/api/exif",
        "/api/history",
        "/photo/0/thumb",
    ),
}
TRAVERSALS = (
    "/../../../../etc/passwd",
    "/static/../../../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/static/..%2f..%2f..%2fetc%2fpasswd",
    "/static/%252e%252e%252fetc%252fpasswd",
    "/static/....//....//etc/passwd",
    "/static/\\..\\..\\windows\\win.ini",
    "/photo/../../etc/passwd",
    "/static//etc/passwd",
    "/static/%00",
    "/%c0%ae%c0%ae/%c0%ae%c0%ae/etc/passwd",
    "/photo/99999999999999999999999999",
    "/photo/-1",
    "/thumbnail/1e9",
    "/thumbnail/0?side=999999999",
    "/" + "a" * 70_000,
    "/?" + "a=b&" * 20_000,
    "http://evil.example/",
    "//evil.example/",
    "*",
    "",
)
BODIES = (
    b"",
    b"{",
    b"null",
    b"[]",
    b"[" * 100_000,
    b'{"a":' * 20_000,
    b'{"photos": [1e999]}',
    b'{"photos": ["\\ud800"]}',
    b'{"label": "\\u0000\\u001b[31m"}',
    b'{"actions": [{"kind": "label", "photos": [-1], "label": "x"}]}',
    b"\xff\xfe\x00\x00",
    b"9" * 6_000,
    b"\x89PNG\r\n\x1a\n" + b"\0" * 64,
    b"\xff\xd8\xff\xe0" + b"\0" * 64,
    b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\0" * 64,
    b"--x\r\nContent-Disposition: form-data; name=photo; filename=../../x.jpg\r\n\r\nno\r\n--x--",
    b"--x\r\n" * 10_000,
)
TYPES = ("application/json", "application/octet-stream", "multipart/form-data; boundary=x", "a/b")


def request(
    path: str,
    *,
    method: str = "GET",
    host: str,
    headers: tuple[str, ...] = (),
    body: bytes = b"",
    length: str | None = None,
) -> bytes:
    """Returns the bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers]
    if body or length is not None:
        lines.append(f"Content-Length: {length if length is not None else len(body)}")
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body


def probes(name: str, token: str) -> Iterator[Probe]:
    """Yields the probes of a server with a word on each."""
    own = f"127.0.0.1:{PORTS[name]}"
    key = (f"Authorization: Bearer {token}", f"Cookie: finetune_{PORTS[name]}={token}")
    for path, method in itertools.product(
        PATHS[name], ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "X\0Y")
    ):
        yield f"{method!r} {path}", request(path, method=method, host=own, headers=key)
    for path, headers in itertools.product(
        PATHS[name],
        ((), ("Authorization: Bearer wrong",), ("Authorization: Bearer " + "a" * 100_000,)),
    ):
        yield f"{path} without the token", request(path, host=own, headers=headers)
    for path, host in itertools.product(
        PATHS[name][:3], ("evil.example", "", "127.0.0.1:1", "[::1", "a" * 9_000, "127.0.0.1@evil")
    ):
        yield f"{path} for host {host[:20]}", request(path, host=host, headers=key)
    for path, origin in itertools.product(
        PATHS[name][:3], ("http://evil.example", "null", "http://127.0.0.1:1", "\x01")
    ):
        yield (
            f"{path} from {origin!r}",
            request(path, method="POST", host=own, headers=(*key, f"Origin: {origin}"), body=b"{}"),
        )
    for path in TRAVERSALS:
        yield f"path {path[:40]!r}", request(path, host=own, headers=key)
    for path, body, kind in itertools.product(PATHS[name][1:3], BODIES, TYPES):
        yield (
            f"{path} {kind} {body[:20]!r}",
            request(
                path, method="POST", host=own, headers=(*key, f"Content-Type: {kind}"), body=body
            ),
        )
    for length in ("-1", "x", "999999999999", "1e3", "5, 6", "0x10", ""):
        yield (
            f"length {length!r}",
            request(
                PATHS[name][1], method="POST", host=own, headers=key, body=b"{}", length=length
            ),
        )
    chunked = (*key, "Transfer-Encoding: chunked")
    for chunk in (b"zz\r\n", b"ffffffffffffffff\r\n", b"5\r\nab", b"-1\r\n", b"0\r\n" * 5_000):
        head = request(PATHS[name][1], method="POST", host=own, headers=chunked)
        yield f"chunk {chunk[:12]!r}", head + chunk
    for raw in (
        b"\0" * 1_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 30_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nA" + b"a" * 1_000_000,
        b"GET / HTTP/1.1\r\n : \r\n\r\n",
        b"",
    ):
        yield f"bytes {raw[:16]!r}", raw


def answer(port: int, sent: bytes) -> int | None:
    """Returns the status of a server's answer; None for a closed connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as client:
        try:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            head = client.recv(64)
            while client.recv(65_536):
                pass
        except (ConnectionError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            return None
    found = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    return int(found[1]) if found else None


def half_requests(port: int, count: int) -> float:
    """Returns the seconds until a server has closed connections that never end their request."""
    clients = []
    for _ in range(count):
        client = socket.create_connection(("127.0.0.1", port), timeout=120.0)
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127")
        clients.append(client)
    started = time.perf_counter()
    for client in clients:
        try:
            while client.recv(1_024):
                pass
        except ConnectionError:
            pass
        client.close()
    return time.perf_counter() - started


def probe(name: str, command: list[str]) -> tuple[int, list[str]]:
    """Returns the number of probes of a server, and what was wrong."""
    port, token = PORTS[name], "probe-token"
    wrong: list[str] = []
    count = 0
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune", *command, "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "FINETUNE_TOKEN": token},
        )
        try:
            own = f"127.0.0.1:{port}"
            good = request(OPENING[name], host=own)
            for _ in range(600):
                try:
                    expected = answer(port, good)
                    break
                except OSError:
                    time.sleep(0.2)
            log.flush()
            log.seek(0)
            if found := re.search(rb"token=([\w-]+)", log.read()):
                token = found[1].decode()
            for word, sent in probes(name, token):
                count += 1
                try:
                    status = answer(port, sent)
                except TimeoutError:
                    wrong.append(f"{name}: {word}: no answer in {SECONDS:g} s")
                    continue
                if status is not None and status >= 500:
                    wrong.append(f"{name}: {word}: {status}")
                if process.poll() is not None:
                    wrong.append(f"{name}: {word}: the server ended")
                    break
            if answer(port, good) != expected:
                wrong.append(f"{name}: does not answer as before")
            seconds = half_requests(port, 200)
            print(f"{name}: 200 half requests closed after {seconds:.0f} s")
            count += 200
            if answer(port, good) != expected:
                wrong.append(f"{name}: does not answer as before")
        finally:
            process.terminate()
            process.wait()
        log.seek(0)
        text = log.read().decode(errors="replace")
        if "Traceback" in text:
            wrong.append(f"{name}: {text[text.index('Traceback') :][:2_000]}")
    return count, wrong


def main() -> int:
    """Probes both servers; returns 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(shutil.copytree(options.photos, Path(folder) / "photos"))
        total, wrong = 0, []
        for name, command in (
            ("serve", ["serve", str(options.run)]),
            ("annotate", ["annotate", str(photos), "--no-open"]),
        ):
            count, found = probe(name, command)
            total += count
            wrong += found
    print("\n".join([*wrong, f"{total} probes, {len(wrong)} not as expected"]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
