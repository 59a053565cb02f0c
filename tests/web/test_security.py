"""Who gets in, and who does not, as a client on the network sees it."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from finetune.web import security


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


def client_of(policy: security.Policy, **options: object) -> TestClient:
    app = Starlette(routes=[Route("/{rest:path}", echo, methods=["GET", "POST"])])
    return TestClient(
        security.Guard(app, policy),
        base_url="http://127.0.0.1:8765",
        follow_redirects=False,
        **options,
    )


@pytest.fixture
def policy() -> security.Policy:
    return security.Policy(
        token="s3cret", hosts=security.hosts_for("127.0.0.1"), max_body_bytes=100
    )


def test_the_token_is_swapped_for_a_strict_cookie_and_leaves_the_address(policy):
    client = client_of(policy)
    answer = client.get("/?token=s3cret&view=grid")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/?view=grid"
    assert answer.headers["set-cookie"] == ("finetune=s3cret; HttpOnly; Path=/; SameSite=strict")
    assert client.get("/").status_code == 200


def test_the_token_never_redirects_to_another_host(policy):
    answer = client_of(policy).get("http://127.0.0.1:8765//evil.example/x?token=s3cret")
    assert answer.headers["location"] == "/evil.example/x"


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", "?token=s3cret&token=wrong"])
def test_without_the_token_nobody_gets_in(policy, query):
    answer = client_of(policy).get(f"/{query}", headers={"accept": "text/html"})
    assert answer.status_code == 401
    assert answer.text == (
        "Open the address that finetune printed in the terminal: it contains the token of this "
        "session.\n"
    )


def test_a_program_may_send_the_token_as_bearer(policy):
    client = client_of(policy)
    assert client.post("/", headers={"authorization": "Bearer s3cret"}).status_code == 200
    assert client.post("/", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.post("/", headers={"authorization": "Basic s3cret"}).status_code == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "[::1", "127.0.0.1:x"],
)
def test_a_foreign_host_name_is_refused(policy, host):
    answer = client_of(policy).get("/", headers={"host": host, "authorization": "Bearer s3cret"})
    assert answer.status_code == 400
    assert answer.json() == {"error": "This server is not known by that name."}


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost", "LOCALHOST:1", "[::1]:8765"])
def test_loopback_names_are_served_whatever_the_port(policy, host):
    headers = {"host": host, "authorization": "Bearer s3cret"}
    assert client_of(policy).get("/", headers=headers).status_code == 200


def test_an_open_server_takes_addresses_but_no_foreign_names():
    policy = security.Policy(token=None, hosts=security.hosts_for("0.0.0.0"), any_address=True)
    client = client_of(policy)
    assert client.get("/", headers={"host": "192.168.1.20:8765"}).status_code == 200
    assert client.get("/", headers={"host": socket.gethostname()}).status_code == 200
    assert client.get("/", headers={"host": "rebound.example"}).status_code == 400
    assert "0.0.0.0" not in policy.hosts


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://127.0.0.1:8765", "http://127.0.0.1:9999", "null"]
)
def test_another_origin_is_refused_even_with_the_cookie(policy, origin):
    client = client_of(policy, cookies={"finetune": "s3cret"})
    assert client.post("/", headers={"origin": origin}).status_code == 403


def test_writing_with_the_cookie_wants_our_own_origin(policy):
    client = client_of(policy, cookies={"finetune": "s3cret"})
    assert client.post("/").status_code == 403
    assert client.post("/", headers={"origin": "http://127.0.0.1:8765"}).status_code == 200
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_photos_are_not_shown_inside_pages_of_other_sites(policy, site):
    client = client_of(policy, cookies={"finetune": "s3cret"})
    embedded = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
    assert client.get("/photo/1/view", headers=embedded).status_code == 403
    followed = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=followed).status_code == 200


def test_a_link_on_another_site_still_opens_the_page(policy):
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    answer = client_of(policy).get("/?token=s3cret", headers=headers)
    assert answer.status_code == 200
    assert 'content="0;url=/"' in answer.text
    assert "s3cret" not in answer.text


def test_a_body_is_bounded_by_its_declared_and_by_its_real_length(policy):
    client = client_of(policy)
    headers = {"authorization": "Bearer s3cret"}
    assert client.post("/", content=b"x" * 100, headers=headers).text == "100"
    answer = client.post("/", content=b"x" * 101, headers=headers)
    assert answer.status_code == 413
    assert answer.json() == {"error": "The body is larger than 100 bytes."}
    chunked = client.post("/", content=iter([b"x" * 60, b"x" * 60]), headers=headers)
    assert chunked.status_code == 413


def test_public_paths_want_no_token_but_the_right_host(policy):
    import dataclasses

    client = client_of(dataclasses.replace(policy, public=frozenset({"/health"})))
    assert client.get("/health").status_code == 200
    assert client.get("/health", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/healthy").status_code == 401


def test_every_answer_forbids_foreign_code_frames_and_guessing_of_types(policy):
    for path in ("/", "/?token=s3cret"):
        headers = client_of(policy).get(path).headers
        rules = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
        assert rules["default-src"] == "'none'"
        assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
        assert rules["frame-ancestors"] == rules["base-uri"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"


def test_websockets_are_closed_at_once(policy):
    from starlette.websockets import WebSocketDisconnect

    with (
        pytest.raises(WebSocketDisconnect) as refused,
        client_of(policy).websocket_connect("ws://127.0.0.1:8765/"),
    ):
        pass
    assert refused.value.code == 1008


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("nas", False)],
)
def test_loopback_is_known(host, loopback):
    assert security.is_loopback(host) is loopback


def test_addresses_are_such_as_a_browser_opens():
    assert security.address_of("0.0.0.0", 80, None) == "http://127.0.0.1:80/"
    assert security.address_of("::1", 80, "t") == "http://[::1]:80/?token=t"


def test_tokens_are_long_and_differ():
    tokens = {security.new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) >= 43 for token in tokens)


class TestLabelingServer:
    """Against the real server, over a real socket."""

    def test_refusals_write_nothing_and_the_server_stays_up(self, serve, birds: Path):
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
    def test_no_path_leads_to_a_file(self, serve, birds: Path, path: str):
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

    def test_200_malformed_requests_are_refused_and_nothing_is_written(self, serve, birds: Path):
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
