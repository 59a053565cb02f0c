"""The labeling server over a real socket."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

JSON = {"content-type": "application/json"}


def malformed(rng: random.Random, number: int, token: str, ids: list[str]) -> bytes:
    """A request that is broken somewhere: its line, its headers, its JSON or its values."""
    noise = rng.randbytes(rng.randint(1, 60)).replace(b"\n", b"?").replace(b"\r", b"?")
    head = f"Host: 127.0.0.1\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n".encode()

    def post(body: bytes, path: bytes = b"/api/act", kind: bytes = b"application/json") -> bytes:
        length = str(len(body)).encode()
        return (
            b"POST " + path + b" HTTP/1.1\r\n" + head + b"Content-Type: " + kind
            + b"\r\nContent-Length: " + length + b"\r\n\r\n" + body
        )  # fmt: skip

    photo = ids[number % len(ids)].encode()
    bodies = [
        noise,
        b'{"kind": ' + str(rng.random()).encode() + b"}",
        b'{"kind":"label","photos":{"' + photo + b'":""},"labels":["a\\u0000b"]}',
        b'{"kind":"label","photos":{"' + photo + b'":""},"labels":[' + b"1," * 3 + b"2]}",
        b'{"kind":"label","photos":{"' + photo + b'":""},"labels":["' + b"x" * 201 + b'"]}',
        b'{"kind":"label","photos":{"' + photo + b'":""},"labels":["\\ud800"]}',
        b'{"kind":"crop","photos":{"' + photo + b'":""},"crop":[0.5,0.5,1e999]}',
        b'{"kind":"crop","photos":{"' + photo + b'":""},"crop":[true,0.5,1]}',
        b'{"kind":"crop","photos":{"' + photo + b'":""},"crop":["0.5",0.5,1]}',
        b'{"kind":"keep","photos":{"' + photo + b'":""},"keeper":["' + photo + b'"]}',
        b'{"kind":"keep","photos":{"' + photo + b'":""},"keeper":"0000000000000000"}',
        b'{"kind":"accept","photos":{"' + photo + b'":""},"choices":{}}',
        b'{"kind":["flag"],"photos":{"' + photo + b'":""}}',
        b'{"kind":"flag","photos":{"../../x":""}}',
        b'{"kind":"flag","photos":{"' + photo + b'":1}}',
        b'{"kind":"flag","photos":{"' + photo + b'":"zz"}}',
        b'{"kind":"flag","photos":[]}',
        b"[]",
        b"null",
    ]
    broken = [
        noise + b"\r\n\r\n",
        b"GET " + noise + b" HTTP/1.1\r\n" + head + b"\r\n",
        b"GET / HTTP/one\r\n" + head + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /api/act HTTP/1.1\r\n" + head + b"Content-Length: -5\r\n\r\n",
        b"POST /api/act HTTP/1.1\r\n" + head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabc",
        b"POST /api/act HTTP/1.1\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + head + b"\r\n",
        post(b'{"number": -1}', b"/api/undo"),
        post(b'{"number": 1.5}', b"/api/redo"),
        post(b'{"number": true}', b"/api/undo"),
        post(b'{"number": 999}', b"/api/undo"),
        post(b"{}", b"/api/undo", b"text/plain"),
        post(b"{}", b"/api/nothing"),
    ]
    if number % 2:
        return post(bodies[number // 2 % len(bodies)])
    return broken[number // 2 % len(broken)]


def test_refusals_write_nothing_and_the_server_stays_up(
    serve: Callable[..., Any], birds: Path
) -> None:
    server = serve(birds)
    photo = server.session.index.states()[0].id
    action = {"kind": "flag", "photos": {photo: ""}}
    with server.client() as good:
        assert good.get("/api/photos").status_code == 200
        refused = [
            httpx.get(f"{server.origin}/", trust_env=False),
            httpx.get(f"{server.origin}/photo/{photo}/view", trust_env=False),
            good.post("/api/act", json=action, headers={"host": "evil.example"}),
            good.post("/api/act", json=action, headers={"origin": "http://evil.example"}),
            good.post("/api/act", content=b'{"kind":"flag"}'),
            good.post("/api/act", json={**action, "photos": {photo: "0" * 12}}),
            good.post("/api/act", json={**action, "photos": {"f" * 16: ""}}),
            good.post("/api/act", json={**action, "extra": 1}),
            good.post("/api/act", content=b"[" * 100_000, headers=JSON),
            good.post("/api/act", content=b"\xff\xfe{", headers=JSON),
            good.post("/api/act", content=b'{"kind":"crop","photos":NaN}', headers=JSON),
            good.post("/api/act", content=b" " * (2 << 20), headers=JSON),
            good.get("/api/act"),
            good.request("DELETE", "/api/photos"),
            good.get("/api/photos?since=x"),
            good.get("/api/similar?to=../../etc/passwd"),
        ]
        assert [answer.status_code // 100 for answer in refused] == [4] * len(refused)
        assert good.get("/api/photos").status_code == 200
    assert server.session.catalog.latest() == (0, 0)


@pytest.mark.parametrize(
    "path",
    [
        "/photo/../../../etc/passwd",
        "/photo/..%2f..%2fetc%2fpasswd/view",
        "/photo/%2e%2e/%2e%2e/view",
        "/static/../annotate.py",
        "/static/..%2fannotate.py",
        "/static/%2e%2e/%2e%2e/errors.py",
        "/static//etc/passwd",
        "/static/annotate/..%5c..%5capp.py",
        "/photo/0000000000000000/view",
        "/photo/../.finetune/catalog.sqlite3",
        "/.finetune/catalog.sqlite3",
        "/photo/\x00/view",
    ],
)
def test_no_path_reaches_a_file(serve: Callable[..., Any], birds: Path, path: str) -> None:
    server = serve(birds, scan=False)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
        raw.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            f"Authorization: Bearer {server.token}\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    status = int(answer.split(b" ", 2)[1])
    assert 400 <= status < 500
    assert b"root:" not in answer
    assert b"import" not in answer


def test_200_malformed_requests_are_refused_and_nothing_is_written(
    serve: Callable[..., Any], birds: Path
) -> None:
    server = serve(birds)
    ids = [state.id for state in server.session.index.states()][:3]
    rng = random.Random(11)
    statuses = []
    for number in range(200):
        raw = malformed(rng, number, server.token, ids)
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        # A request that ends before it is whole gets no answer at all.
        statuses.append(int(answer.split(b" ", 2)[1]) if answer else 400)
    wrong = [n for n, status in enumerate(statuses) if status // 100 != 4]
    assert not wrong, [malformed(random.Random(11), n, "TOKEN", ids) for n in wrong]
    assert server.session.catalog.latest() == (0, 0)
    with server.client() as client:
        assert client.get("/api/photos").status_code == 200
