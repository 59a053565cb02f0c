"""What a request brings, without a server around it."""

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

from finetune.web.serve.batching import Limits
from finetune.web.serve.upload import Patience, Upload, UploadedPhoto, read_upload

T = TypeVar("T")


def run_alone(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in a thread of its own: a browser's loop may be running in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


FORM = "multipart/form-data; boundary=cut"


def read(kind: str | None, *chunks: bytes, comes: bool = True, **limits: Any) -> Upload:
    """Reads a body that comes in chunks, or goes on for ever without coming."""
    headers = [] if kind is None else [(b"content-type", kind.encode())]
    waiting = list(chunks)

    async def receive() -> Message:
        if not comes:
            await asyncio.Event().wait()
        body = waiting.pop(0) if waiting else b""
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    # Within an application Starlette refuses a bad form with an HTTPException.
    scope = {"type": "http", "headers": headers, "app": None}
    return run_alone(read_upload(Request(scope, receive), Limits(**limits)))


def part(content: bytes, name: str | None = "photo", file: str | None = None) -> bytes:
    said = f'form-data; name="{name}"' + ("" if file is None else f'; filename="{file}"')
    return b"--cut\r\nContent-Disposition: " + said.encode() + b"\r\n\r\n" + content + b"\r\n"


@pytest.mark.parametrize(
    "kind",
    [None, "image/png", "IMAGE/JPEG; x=y", "application/octet-stream"],
)
def test_a_body_of_bytes_is_one_photo_without_a_name(kind: str | None) -> None:
    assert read(kind, b"abc", b"def") == Upload(
        photos=(UploadedPhoto(name=None, content=b"abcdef"),), is_form=False
    )


def test_a_form_holds_photos_with_their_names_and_its_other_fields_are_no_photos() -> None:
    body = part(b"one", file="1.jpg") + part(b"words", name="said") + part(b"two", file="2.jpg")
    assert read(FORM, body + b"--cut--\r\n") == Upload(
        photos=(
            UploadedPhoto(name="1.jpg", content=b"one"),
            UploadedPhoto(name="2.jpg", content=b"two"),
        ),
        is_form=True,
    )


@pytest.mark.parametrize(
    ("kind", "body", "status", "words"),
    [
        ("image/png", b"", 400, "There is no photo in the request."),
        (FORM, part(b"words") + b"--cut--\r\n", 400, "There is no photo in the request."),
        ("text/html", b"<p>", 415, "A photo or a form is wanted, not text/html."),
        ("a" * 200, b"x", 415, f"A photo or a form is wanted, not {'a' * 80}."),
    ],
)
def test_what_holds_no_photo_is_refused(kind: str, body: bytes, status: int, words: str) -> None:
    with pytest.raises(HTTPException) as caught:
        read(kind, body)
    assert (caught.value.status_code, caught.value.detail) == (status, words)


def test_more_photos_than_are_allowed_are_refused() -> None:
    body = part(b"x", file="x.jpg") * 3 + b"--cut--\r\n"
    with pytest.raises(HTTPException) as caught:
        read(FORM, body, request_photos=2)
    assert caught.value.status_code == 400


@pytest.mark.parametrize("kind", ["image/png", FORM])
def test_a_body_that_does_not_come_is_given_up(kind: str) -> None:
    with pytest.raises(HTTPException) as caught:
        read(kind, comes=False, body_seconds=0.05)
    assert (caught.value.status_code, caught.value.detail) == (408, "The body came too slowly.")
    assert caught.value.headers == {"Connection": "close"}


def messages_behind(patience_seconds: float, *given: Message | None, kind: str = "http") -> Any:
    """What an application behind `Patience` receives; None is a message that never comes."""
    waiting = list(given)

    async def receive() -> Message:
        message = waiting.pop(0)
        if message is None:
            await asyncio.Event().wait()
        return message

    received = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in given:
            received.append(await receive())

    run_alone(Patience(app, seconds=patience_seconds)({"type": kind}, receive, None))
    return received


def test_a_client_whose_body_never_ends_is_taken_for_gone() -> None:
    first = {"type": "http.request", "body": b"a", "more_body": True}
    assert messages_behind(0.05, first, None) == [first, {"type": "http.disconnect"}]


def test_when_the_body_is_whole_there_is_no_more_hurry() -> None:
    whole = {"type": "http.request", "body": b"a", "more_body": False}
    later = {"type": "http.disconnect"}

    async def scene() -> list[Message]:
        async def receive() -> Message:
            if received:
                await asyncio.sleep(0.2)
                return later
            return whole

        received: list[Message] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            received.append(await receive())
            async with asyncio.timeout(30):
                received.append(await receive())

        await Patience(app, seconds=0.1)({"type": "http"}, receive, None)
        return received

    assert run_alone(scene()) == [whole, later]


def test_what_is_no_request_is_left_alone() -> None:
    start = {"type": "lifespan.startup"}
    assert messages_behind(0.0, start, kind="lifespan") == [start]
