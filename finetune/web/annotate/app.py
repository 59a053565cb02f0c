"""ASGI application of the labeling page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from finetune.errors import CollectionError, DecodeError, FinetuneError
from finetune.files import parse_json
from finetune.messages import marked, script_messages, translations
from finetune.photos.catalog.undo_log import StaleError
from finetune.web.annotate.actions import BadRequestError, read_action
from finetune.web.annotate.agreement import agreements
from finetune.web.annotate.descriptions import NO_SUCH_PHOTO, localized
from finetune.web.annotate.label_edits import read_label_edit
from finetune.web.annotate.metadata import entries
from finetune.web.annotate.photo_state import PhotoState
from finetune.web.annotate.session import ActionResult, Session
from finetune.web.annotate.workers import SuggestionWorker
from finetune.web.messages import language_of
from finetune.web.security import Guard, Policy
from finetune.web.server import (
    STATIC_FOLDER,
    OwnFiles,
    client_disconnected,
    http_error,
    render,
)

T = TypeVar("T")

HISTORY = 200
"""Number of actions in the list of the latest ones."""

FIRST_ROWS = 300
"""Photos that the page starts with."""

MOST_ROWS = 8000
"""Photos of one response; the page asks for the others at once."""

_CACHE_FOREVER = "private, max-age=31536000, immutable"


class CompactJson(Response):
    """JSON in UTF-8 without spaces."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Returns the body."""
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "backslashreplace"
        )


@dataclass(frozen=True)
class Pages:
    """Endpoints of one session."""

    session: Session
    worker: SuggestionWorker
    run: str | None = None

    def home(self, request: Request) -> Response:
        """Returns the page; its photos follow as JSON."""
        name = self.session.root.resolve().name
        modules = sorted(file.name for file in (STATIC_FOLDER / "annotate").glob("*.js"))
        language = language_of(request)
        page = render(
            "annotate.html",
            collection=name,
            modules=modules,
            language=language,
            messages=script_messages(language),
            _=translations(language).gettext,
            folder=shlex.quote(str(self.session.root)),
            run=shlex.quote(self.run) if self.run else "",
        )
        return HTMLResponse(page, headers={"Vary": "Accept-Language"})

    def photos(self, request: Request) -> Response:
        """Returns all rows, or those that changed since a time of the index's clock."""
        text = request.query_params.get("since", "-1")
        if not text.removeprefix("-").isdecimal() or len(text) > 12:
            raise HTTPException(400, "'since' must be a number.")
        if "first" in request.query_params:
            named = [request.query_params.get(name, "") for name in ("at", "path")]
            rows = self.session.index.first_rows(FIRST_ROWS, named=named)
            return CompactJson({**self._state(request, -1, limit=0), "rows": rows, "clock": -1})
        after = request.query_params.get("after", "")
        return CompactJson(self._state(request, int(text), after=after, limit=MOST_ROWS))

    def image(self, request: Request) -> Response:
        """Returns a photo by its id, as a thumbnail, at screen size or at full size."""
        state = self.session.index.get(request.path_params["photo"])
        kind = request.path_params["kind"]
        if state is None or kind not in ("thumb", "view", "full"):
            raise HTTPException(404, NO_SUCH_PHOTO)
        if request.headers.get("if-none-match") == f'"{state.id}"':
            return Response(status_code=304, headers={"Cache-Control": _CACHE_FOREVER})
        try:
            if kind == "full":
                jpeg = self.session.thumbnails.full(self.session.root / state.path)
            else:
                jpeg = self.session.thumbnail(state, kind)
        except DecodeError as error:
            raise HTTPException(415, f"This photo cannot be opened: {error.reason}.") from error
        if kind == "view":
            self.session.shown.set()
        headers = {"Cache-Control": _CACHE_FOREVER, "ETag": f'"{state.id}"'}
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    async def act(self, request: Request) -> Response:
        """Applies an action to photos."""
        action = read_action(await _json_of(request))
        return await run_in_threadpool(self._perform, request, self.session.act, action)

    async def edit_label(self, request: Request) -> Response:
        """Renames, merges, deletes, orders or styles labels."""
        edit = read_label_edit(await _json_of(request))
        return await run_in_threadpool(self._perform, request, self.session.edit_label, edit)

    async def undo(self, request: Request) -> Response:
        """Undoes the latest action."""
        number = _number_of(await _json_of(request))
        return await run_in_threadpool(self._perform, request, self.session.undo, number)

    async def redo(self, request: Request) -> Response:
        """Redoes the action undone last."""
        number = _number_of(await _json_of(request))
        return await run_in_threadpool(self._perform, request, self.session.redo, number)

    def similar(self, request: Request) -> Response:
        """Returns all photo ids by similarity to one photo."""
        ids = self.worker.similar(self._requested(request))
        if not ids:
            reason = marked("This photo has not been analyzed yet. Try again shortly.")
            texts = translations(language_of(request))
            raise HTTPException(409, texts.gettext(reason))
        return CompactJson({"ids": ids})

    def subject_crop(self, request: Request) -> Response:
        """Returns a crop around a photo's subject, or null."""
        crop = self.worker.extractor.subject_crop(self._requested(request))
        return CompactJson({"crop": crop and [crop.center_x, crop.center_y, crop.side]})

    def exif(self, request: Request) -> Response:
        """Returns what the camera wrote into a photo."""
        state = self._requested(request)
        return CompactJson({"entries": entries(self.session.root / state.path)})

    def places(self, request: Request) -> Response:
        """Returns the photos with a place: id, latitude and longitude."""
        return CompactJson({"places": self.session.places()})

    def history(self, request: Request) -> Response:
        """Returns the annotator's latest actions, newest first."""
        texts = translations(language_of(request))
        found = self.session.catalog.history(HISTORY, annotator=self.session.index.annotator)
        return CompactJson(
            {
                "actions": [
                    {
                        "at": action.recorded_at,
                        "description": localized(action.what, texts),
                        "undone": action.undone,
                    }
                    for action in found
                ]
            }
        )

    def agreement(self, request: Request) -> Response:
        """Returns the agreement of each pair of annotators."""
        votes = [found.votes for found in self.session.catalog.annotations().values()]
        return CompactJson({"pairs": [asdict(pair) for pair in agreements(votes)]})

    def _requested(self, request: Request) -> PhotoState:
        state = self.session.index.get(request.query_params.get("photo", ""))
        if state is None:
            raise HTTPException(404, NO_SUCH_PHOTO)
        return state

    def _perform(
        self, request: Request, action: Callable[[T], ActionResult], argument: T
    ) -> Response:
        result = action(argument)
        description = localized(result.description, translations(language_of(request)))
        annotator = self.session.index.annotator
        rows = list({state.id: state.row(annotator) for state in result.states}.values())
        return CompactJson({"description": description, "rows": rows, **self._head()})

    def stale(self, request: Request, error: Exception) -> Response:
        """Returns 409 with all rows for an action on photos that have changed since."""
        self.session.refresh()
        texts = translations(language_of(request))
        reason = marked("Another window changed this first. Nothing was overwritten.")
        return CompactJson({"error": texts.gettext(reason), **self._state(request, -1)}, 409)

    def _head(self) -> dict[str, Any]:
        undo, redo = self.session.catalog.latest(self.session.index.annotator)
        index = self.session.index
        styles = {
            label: {"pinned": style.pinned, "hue": style.hue}
            for label, style in index.styles.items()
        }
        return {"labels": index.labels, "styles": styles, "undo": undo, "redo": redo}

    def _state(
        self, request: Request, since: int, *, after: str = "", limit: int | None = None
    ) -> dict[str, Any]:
        index = self.session.index
        # Before the rows, so that the rows include what it counts.
        suggested_count = index.suggested_count
        with index.lock:
            clock = index.clock
            rows = index.rows(since, after=after, limit=limit)
            gone = index.gone(since)
        texts = translations(language_of(request))
        jobs = index.jobs.to_dict()
        for job in jobs.values():
            job["note"] = localized(job["note"], texts)
        return {
            "clock": clock,
            "rows": rows,
            "next": rows[-1]["path"] if rows and len(rows) == limit else None,
            "gone": gone,
            "jobs": jobs,
            "annotator": index.annotator,
            "actionCount": index.action_count,
            "suggestedCount": suggested_count,
            "cohort": index.cohort and asdict(index.cohort),
            **self._head(),
        }


def annotate_app(
    session: Session, policy: Policy, worker: SuggestionWorker, *, run: str | None = None
) -> Starlette:
    """Returns the labeling page as an ASGI application with its security middleware.

    Args:
        session: The session.
        policy: Access policy.
        worker: The session's suggestions.
        run: Run that suggests labels, for the command that is shown at the end.
    """
    pages = Pages(session, worker, run)
    return Starlette(
        routes=[
            Route("/", pages.home),
            Route("/api/photos", pages.photos),
            Route("/api/similar", pages.similar),
            Route("/api/subject-crop", pages.subject_crop),
            Route("/api/exif", pages.exif),
            Route("/api/places", pages.places),
            Route("/api/history", pages.history),
            Route("/api/agreement", pages.agreement),
            Route("/api/act", pages.act, methods=["POST"]),
            Route("/api/labels", pages.edit_label, methods=["POST"]),
            Route("/api/undo", pages.undo, methods=["POST"]),
            Route("/api/redo", pages.redo, methods=["POST"]),
            Route("/photo/{photo:str}/{kind:str}", pages.image),
            Mount("/static", OwnFiles(), name="static"),
        ],
        middleware=[Middleware(Guard, policy=policy)],
        exception_handlers={
            ClientDisconnect: client_disconnected,
            HTTPException: http_error,
            StaleError: pages.stale,
            BadRequestError: _refusal,
            FinetuneError: _refusal,
        },
    )


async def _json_of(request: Request) -> object:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "The body must be application/json.")
    try:
        return parse_json(await request.body())
    except (ValueError, RecursionError) as error:
        raise BadRequestError("The body is not JSON.") from error


def _number_of(body: object) -> int:
    if not isinstance(body, dict) or set(body) != {"number"}:
        raise BadRequestError("The request must be an object with a 'number'.")
    number = body["number"]
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 53:
        raise BadRequestError("'number' must be an integer.")
    return number


def _refusal(request: Request, error: Exception) -> Response:
    """Returns what was refused or failed, in the user's language."""
    status = {BadRequestError: 400, CollectionError: 404}.get(type(error), 500)
    reason = localized(str(error), translations(language_of(request)))
    return JSONResponse({"error": reason}, status)
