"""Photos of a request, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

pytest.importorskip("starlette")
pytest.importorskip("python_multipart")

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from finetune.web.serve.app import UploadedPhoto, read_upload
from finetune.web.serve.batching import Limits

T = TypeVar("T")


def run_alone(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in a thread of its own: a browser's loop may be running in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


FORM = "multipart/form-data; boundary=cut"


def read(kind: str | None, *chunks: bytes, **limits: Any) -> list[UploadedPhoto]:
    """Returns the photos in a body that arrives in chunks."""
    headers = [] if kind is None else [(b"content-type", kind.encode())]
    waiting = list(chunks)

    async def receive() -> Message:
        body = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    # Within an application Starlette refuses a bad form with an HTTPException.
    scope = {"type": "http", "headers": headers, "app": None}
    return run_alone(read_upload(Request(scope, receive), Limits(**limits)))


def part(content: bytes, name: str | None = "photo", file: str | None = None) -> bytes:
    header = f'form-data; name="{name}"' + ("" if file is None else f'; filename="{file}"')
    return b"--cut\r\nContent-Disposition: " + header.encode() + b"\r\n\r\n" + content + b"\r\n"


@pytest.mark.parametrize(
    "kind",
    [None, "image/png", "IMAGE/JPEG; x=y", "application/octet-stream"],
)
def test_a_body_of_bytes_is_one_photo_without_a_name(kind: str | None) -> None:
    assert read(kind, b"abc", b"def") == [UploadedPhoto(name=None, content=b"abcdef")]


def test_only_the_files_of_a_form_are_photos() -> None:
    body = part(b"one", file="1.jpg") + part(b"words", name="said") + part(b"two", file="2.jpg")
    assert read(FORM, body + b"--cut--\r\n") == [
        UploadedPhoto(name="1.jpg", content=b"one"),
        UploadedPhoto(name="2.jpg", content=b"two"),
    ]


@pytest.mark.parametrize(
    ("kind", "body", "status", "words"),
    [
        ("image/png", b"", 400, "The request contains no photo."),
        (FORM, part(b"words") + b"--cut--\r\n", 400, "The request contains no photo."),
        ("text/html", b"<p>", 415, "Send a photo or a form, not text/html."),
        ("a" * 200, b"x", 415, f"Send a photo or a form, not {'a' * 80}."),
    ],
)
def test_requests_without_a_photo_are_refused(
    kind: str, body: bytes, status: int, words: str
) -> None:
    with pytest.raises(HTTPException) as caught:
        read(kind, body)
    assert (caught.value.status_code, caught.value.detail) == (status, words)


def test_too_many_photos_are_refused() -> None:
    body = part(b"x", file="x.jpg") * 3 + b"--cut--\r\n"
    with pytest.raises(HTTPException) as caught:
        read(FORM, body, request_photos=2)
    assert caught.value.status_code == 400
