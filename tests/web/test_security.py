"""Access control, as seen by a client."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from finetune.web import security


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


def client_of(policy: security.Policy, **options: Any) -> TestClient:
    app = Starlette(routes=[Route("/{rest:path}", echo, methods=["GET", "POST"])])
    return TestClient(
        security.Guard(app, policy),
        base_url="http://127.0.0.1:8765",
        follow_redirects=False,
        **options,
    )


@pytest.fixture
def policy() -> security.Policy:
    return replace(security.policy_for("127.0.0.1", 8765, "s3cret"), max_body_bytes=100)


def test_the_token_is_exchanged_for_a_strict_cookie(
    policy: security.Policy,
) -> None:
    client = client_of(policy)
    answer = client.get("/?token=s3cret&view=grid")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/?view=grid"
    assert answer.headers["set-cookie"] == (
        "finetune_8765=s3cret; HttpOnly; Path=/; SameSite=strict"
    )
    assert client.get("/").status_code == 200


def test_the_token_never_redirects_to_another_host(policy: security.Policy) -> None:
    answer = client_of(policy).get("http://127.0.0.1:8765//evil.example/x?token=s3cret")
    assert answer.headers["location"] == "/evil.example/x"


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", "?token=s3cret&token=wrong"])
def test_requests_without_the_token_are_refused(policy: security.Policy, query: str) -> None:
    answer = client_of(policy).get(f"/{query}", headers={"accept": "text/html"})
    assert answer.status_code == 401
    assert answer.text == (
        "Open the address that finetune printed in the terminal: it contains the token of this "
        "session.\n"
    )


def test_a_program_may_send_the_token_as_bearer(policy: security.Policy) -> None:
    client = client_of(policy)
    assert client.post("/", headers={"authorization": "Bearer s3cret"}).status_code == 200
    assert client.post("/", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.post("/", headers={"authorization": "Basic s3cret"}).status_code == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "[::1", "127.0.0.1:x"],
)
def test_a_foreign_host_name_is_refused(policy: security.Policy, host: str) -> None:
    answer = client_of(policy).get("/", headers={"host": host, "authorization": "Bearer s3cret"})
    assert answer.status_code == 400
    assert answer.json() == {"error": "This server is not known by that name."}


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost", "LOCALHOST:1", "[::1]:8765"])
def test_loopback_names_are_served_whatever_the_port(policy: security.Policy, host: str) -> None:
    headers = {"host": host, "authorization": "Bearer s3cret"}
    assert client_of(policy).get("/", headers=headers).status_code == 200


def test_an_open_server_accepts_addresses_but_no_foreign_names() -> None:
    policy = security.policy_for("0.0.0.0", 8765, None)
    client = client_of(policy)
    assert client.get("/", headers={"host": "192.168.1.20:8765"}).status_code == 200
    assert client.get("/", headers={"host": socket.gethostname()}).status_code == 200
    assert client.get("/", headers={"host": "rebound.example"}).status_code == 400
    assert "0.0.0.0" not in policy.hosts


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://127.0.0.1:8765", "http://127.0.0.1:9999", "null"]
)
def test_another_origin_is_refused_even_with_the_cookie(
    policy: security.Policy, origin: str
) -> None:
    client = client_of(policy, cookies={"finetune_8765": "s3cret"})
    assert client.post("/", headers={"origin": origin}).status_code == 403


def test_writing_with_the_cookie_requires_our_origin(policy: security.Policy) -> None:
    client = client_of(policy, cookies={"finetune_8765": "s3cret"})
    assert client.post("/").status_code == 403
    assert client.post("/", headers={"origin": "http://127.0.0.1:8765"}).status_code == 200
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_photos_are_not_shown_inside_pages_of_other_sites(
    policy: security.Policy, site: str
) -> None:
    client = client_of(policy, cookies={"finetune_8765": "s3cret"})
    embedded = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
    assert client.get("/photo/1/view", headers=embedded).status_code == 403
    followed = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=followed).status_code == 200


def test_a_link_on_another_site_still_opens_the_page(policy: security.Policy) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    answer = client_of(policy).get("/?token=s3cret", headers=headers)
    assert answer.status_code == 200
    assert 'content="0;url=/"' in answer.text
    assert "s3cret" not in answer.text


def test_bodies_are_limited_by_declared_and_actual_length(policy: security.Policy) -> None:
    client = client_of(policy)
    headers = {"authorization": "Bearer s3cret"}
    assert client.post("/", content=b"x" * 100, headers=headers).text == "100"
    answer = client.post("/", content=b"x" * 101, headers=headers)
    assert answer.status_code == 413
    assert answer.json() == {"error": "The body is larger than 100 bytes."}
    chunked = client.post("/", content=iter([b"x" * 60, b"x" * 60]), headers=headers)
    assert chunked.status_code == 413


def test_public_paths_require_the_right_host_but_no_token(policy: security.Policy) -> None:
    import dataclasses

    client = client_of(dataclasses.replace(policy, public=frozenset({"/health"})))
    assert client.get("/health").status_code == 200
    assert client.get("/health", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/healthy").status_code == 401


def test_every_response_has_the_security_headers(
    policy: security.Policy,
) -> None:
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


def test_websockets_are_closed_at_once(policy: security.Policy) -> None:
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
def test_loopback_addresses_are_recognized(host: str, loopback: bool) -> None:
    assert security.is_loopback(host) is loopback


def test_addresses_open_in_a_browser() -> None:
    assert security.address_of("0.0.0.0", 80, None) == "http://127.0.0.1:80/"
    assert security.address_of("::1", 80, "t") == "http://[::1]:80/?token=t"


def test_tokens_are_long_and_differ() -> None:
    tokens = {security.new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) >= 43 for token in tokens)
