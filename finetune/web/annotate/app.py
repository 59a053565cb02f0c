"""The labeling page: its routes over a session."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from finetune.errors import CollectionError, DecodeError, FinetuneError
from finetune.web.annotate.actions import BadRequestError, read_action
from finetune.web.annotate.agreement import agreements
from finetune.web.annotate.annotations import StaleError
from finetune.web.annotate.photo_index import Entry
from finetune.web.annotate.session import Done, Session
from finetune.web.annotate.workers import Adviser
from finetune.web.security import Guard, Policy
from finetune.web.server import STATIC_FOLDER, OwnFiles, templates

_FOREVER = "private, max-age=31536000, immutable"


class Json(Response):
    """Compact JSON in UTF-8."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Returns the body."""
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "backslashreplace"
        )


@dataclass(frozen=True)
class Pages:
    """The endpoints over one session."""

    session: Session
    adviser: Adviser | None = None

    def home(self, request: Request) -> Response:
        """The page itself; its photos come as JSON."""
        name = self.session.root.resolve().name
        modules = sorted(file.name for file in (STATIC_FOLDER / "annotate").glob("*.js"))
        template = templates().get_template("annotate.html")
        return HTMLResponse(template.render(collection=name, modules=modules))

    def photos(self, request: Request) -> Response:
        """All rows, or those that changed since a moment of the board's clock."""
        text = request.query_params.get("since", "-1")
        if not text.removeprefix("-").isdecimal() or len(text) > 12:
            raise HTTPException(400, "'since' must be a number.")
        return Json(self._state(int(text)))

    def image(self, request: Request) -> Response:
        """A photo by its id: small, or as large as a screen."""
        entry = self.session.board.get(request.path_params["photo"])
        kind = request.path_params["kind"]
        if entry is None or kind not in ("thumb", "view"):
            raise HTTPException(404, "There is no such photo.")
        if request.headers.get("if-none-match") == f'"{entry.id}"':
            return Response(status_code=304, headers={"Cache-Control": _FOREVER})
        try:
            jpeg = self.session.copy_of(entry, kind)
        except DecodeError as error:
            raise HTTPException(415, f"This photo cannot be opened: {error.reason}.") from error
        headers = {"Cache-Control": _FOREVER, "ETag": f'"{entry.id}"'}
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    async def act(self, request: Request) -> Response:
        """Does one thing to photos."""
        action = read_action(await _json_of(request))
        return await run_in_threadpool(self._answer, lambda: self.session.act(action))

    async def undo(self, request: Request) -> Response:
        """Takes the latest action back."""
        number = _number_of(await _json_of(request))
        return await run_in_threadpool(self._answer, lambda: self.session.undo(number))

    async def redo(self, request: Request) -> Response:
        """Does again what was undone last."""
        number = _number_of(await _json_of(request))
        return await run_in_threadpool(self._answer, lambda: self.session.redo(number))

    def similar(self, request: Request) -> Response:
        """All photos by their likeness to one."""
        ids = self.adviser.similar(self._asked(request, "to")) if self.adviser else []
        if not ids:
            raise HTTPException(409, "The photos have not been looked at yet. Try again soon.")
        return Json({"ids": ids})

    def cohort(self, request: Request) -> Response:
        """Look-alikes of a photo that probably have its label."""
        entry = self._asked(request, "photo")
        label, ids = self.adviser.cohort(entry) if self.adviser else (None, [])
        return Json({"label": label, "ids": ids})

    def square(self, request: Request) -> Response:
        """The square around what a machine takes for a photo's subject, or null."""
        entry = self._asked(request, "photo")
        crop = self.adviser.square(entry) if self.adviser else None
        return Json({"crop": crop and [crop.center_x, crop.center_y, crop.side]})

    def agreement(self, request: Request) -> Response:
        """How far annotators agree."""
        votes = [word.votes for word in self.session.catalog.words().values()]
        return Json({"pairs": [asdict(pair) for pair in agreements(votes)]})

    def _asked(self, request: Request, name: str) -> Entry:
        entry = self.session.board.get(request.query_params.get(name, ""))
        if entry is None:
            raise HTTPException(404, "There is no such photo.")
        return entry

    def _answer(self, do: Callable[[], Done]) -> Response:
        board = self.session.board
        try:
            done = do()
        except StaleError:
            self.session.refresh()
            reason = "Changed in another window meanwhile. Nothing was overwritten."
            return Json({"error": reason, **self._state(None)}, status_code=409)
        rows = [entry.row(board.annotator) for entry in _distinct(done.entries)]
        return Json({"did": done.what, "rows": rows, **self._head()})

    def _head(self) -> dict[str, Any]:
        undo, redo = self.session.catalog.latest()
        return {"labels": self.session.board.labels, "undo": undo, "redo": redo}

    def _state(self, since: int | None) -> dict[str, Any]:
        board = self.session.board
        heard = board.heard  # before the rows: what it counts is then in them
        with board.lock:
            clock = board.clock
            rows = board.rows(-1 if since is None else since)
        jobs = {"scan": asdict(board.jobs.scan), "advice": asdict(board.jobs.advice)}
        return {
            "clock": clock,
            "rows": rows,
            "jobs": jobs,
            "annotator": board.annotator,
            "said": board.said,
            "heard": heard,
            **self._head(),
        }


def annotate_app(session: Session, policy: Policy, adviser: Adviser | None = None) -> Starlette:
    """Returns the labeling page as an ASGI application behind its guard."""
    pages = Pages(session, adviser)
    return Starlette(
        routes=[
            Route("/", pages.home),
            Route("/api/photos", pages.photos),
            Route("/api/similar", pages.similar),
            Route("/api/cohort", pages.cohort),
            Route("/api/square", pages.square),
            Route("/api/agreement", pages.agreement),
            Route("/api/act", pages.act, methods=["POST"]),
            Route("/api/undo", pages.undo, methods=["POST"]),
            Route("/api/redo", pages.redo, methods=["POST"]),
            Route("/photo/{photo:str}/{kind:str}", pages.image),
            Mount("/static", OwnFiles(), name="static"),
        ],
        middleware=[Middleware(Guard, policy=policy)],
        exception_handlers={
            HTTPException: _refused,
            BadRequestError: _bad_request,
            FinetuneError: _failed,
        },
    )


def _distinct(entries: tuple[Entry, ...]) -> list[Entry]:
    return list({entry.id: entry for entry in entries}.values())


async def _json_of(request: Request) -> object:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "The body must be application/json.")
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise BadRequestError("The body is not JSON.") from error


def _number_of(body: object) -> int:
    if not isinstance(body, dict) or set(body) != {"number"}:
        raise BadRequestError("The request must be an object with a 'number'.")
    number = body["number"]
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 53:
        raise BadRequestError("'number' must be a whole number.")
    return number


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def _bad_request(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 404 if isinstance(error, CollectionError) else 500)
