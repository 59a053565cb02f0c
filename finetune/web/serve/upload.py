"""The photos that a request brings, and how long is waited for them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finetune.web.serve.batching import Limits

_RAW = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})
"""Bodies that are one photo; the last is what curl says of any file."""

_FORM = "multipart/form-data"


@dataclass(frozen=True, kw_only=True)
class UploadedPhoto:
    """One photo of a request.

    Attributes:
        name: The file's name in a form; None of a photo that is the whole body.
        content: The bytes of the file.
    """

    name: str | None
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What a request brings.

    Attributes:
        photos: One at least.
        is_form: Whether they came in a form, which may hold several.
    """

    photos: tuple[UploadedPhoto, ...]
    is_form: bool


async def read_upload(request: Request, limits: Limits) -> Upload:
    """Returns the photos of a request.

    Raises:
        HTTPException: There is none, the body is of another kind, or it comes too slowly.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(limits.body_seconds):
            if kind == _FORM:
                photos = await _read_form(request, limits.request_photos)
            elif kind in _RAW or kind.startswith("image/"):
                body = await request.body()
                photos = (UploadedPhoto(name=None, content=body),) if body else ()
            else:
                raise HTTPException(415, f"A photo or a form is wanted, not {kind[:80]}.")
    except TimeoutError:
        raise HTTPException(
            408, "The body came too slowly.", headers={"Connection": "close"}
        ) from None
    if not photos:
        raise HTTPException(400, "There is no photo in the request.")
    return Upload(photos=photos, is_form=kind == _FORM)


async def _read_form(request: Request, most: int) -> tuple[UploadedPhoto, ...]:
    async with request.form(max_files=most, max_fields=16, max_part_size=1 << 16) as form:
        return tuple(
            [
                UploadedPhoto(name=item.filename or None, content=await item.read())
                for _, item in form.multi_items()
                if isinstance(item, UploadFile)
            ]
        )


class Patience:
    """Takes a client for gone that is still sending when the body should long have come.

    A refused request is read to its end before it is answered, and must not hold on for ever.

    Args:
        app: What answers.
        seconds: From the head of a request, in which its body must have come.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with the application behind."""
        await self._app(scope, self._in_time(receive) if scope["type"] == "http" else receive, send)

    def _in_time(self, receive: Receive) -> Receive:
        deadline = asyncio.get_running_loop().time() + self._seconds
        whole = False

        async def in_time() -> Message:
            nonlocal whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                return {"type": "http.disconnect"}
            whole = not message.get("more_body", False)
            return message

        return in_time
