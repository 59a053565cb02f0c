"""Counts and log lines of requests, whoever answers them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from finetune.web.serve.metrics import Metrics, RequestMetrics


async def answer(request: Request) -> Response:
    request.state.photos = int(request.query_params.get("photos", 0))
    if "fail" in request.query_params:
        raise RuntimeError("a bug")
    return PlainTextResponse("answer", 201)


@pytest.fixture
def watched() -> tuple[TestClient, Metrics, list[str]]:
    metrics, lines = Metrics(lambda: 0), list[str]()
    options: Any = {"metrics": metrics, "log": lines.append, "paths": frozenset({"/known"})}
    app = Starlette(
        routes=[Route("/known", answer), Route("/{path}", answer)],
        middleware=[Middleware(RequestMetrics, **options)],
    )
    return TestClient(app, raise_server_exceptions=False), metrics, lines


def test_requests_are_logged_without_query_and_unknown_paths_share_a_counter(watched: Any) -> None:
    client, metrics, lines = watched
    client.get("/known?photos=2&name=secret")
    client.get("/secret")
    client.get("/also-secret")
    assert [re.sub(r"\d+ ms", "N ms", line) for line in lines] == [
        "GET /known 201 N ms 2 photos",
        "GET other 201 N ms",
        "GET other 201 N ms",
    ]
    text = metrics.text().decode()
    assert 'finetune_requests_total{path="/known",status="201"} 1.0' in text
    assert 'finetune_requests_total{path="other",status="201"} 2.0' in text
    assert 'finetune_request_seconds_count{path="other"} 2.0' in text


def test_an_exception_counts_as_a_server_error(watched: Any) -> None:
    client, metrics, lines = watched
    client.get("/known?fail")
    assert lines[0].startswith("GET /known 500 ")
    assert 'finetune_requests_total{path="/known",status="500"} 1.0' in metrics.text().decode()


def test_lifespan_messages_are_not_counted(watched: Any) -> None:
    client, metrics, lines = watched
    with client:
        pass
    assert lines == []
    assert "finetune_requests_total{" not in metrics.text().decode()
