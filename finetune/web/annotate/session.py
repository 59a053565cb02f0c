"""Labeling session: catalog, photo index and actions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.files import collection_cache_dir
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.catalog.undo_log import Replayed, StaleError
from finetune.photos.scan import require_photos
from finetune.web.annotate.actions import Action, BadRequestError, write_action
from finetune.web.annotate.photo_index import PhotoIndex, PhotoState
from finetune.web.annotate.thumbnails import Kind, Thumbnails


@dataclass(frozen=True, kw_only=True)
class ActionResult:
    """Description of an action, and the photos that may have changed."""

    description: str
    states: tuple[PhotoState, ...]


class Session:
    """Labeling session of one collection. May be used from any thread.

    Args:
        root: The collection's folder.
        catalog: Its catalog; see `finetune.photos.scan.scan`.
        labels: Labels to offer from the start, in the order of their keys.
        annotator: Name of the annotator, or None.

    Raises:
        CollectionError: There is no such folder, or it contains no photo.
        CatalogError: The catalog cannot be used.
    """

    def __init__(
        self,
        root: Path,
        *,
        catalog: Path | None = None,
        labels: Sequence[str] = (),
        annotator: str | None = None,
    ) -> None:
        self.root = root
        self.catalog_path = catalog
        self.files = require_photos(
            root, advice="Give a folder of photos, with or without subfolders."
        )
        self.catalog = open_catalog(root, catalog)
        self.cache_dir = collection_cache_dir(root, catalog)
        self.thumbnails = Thumbnails(self.cache_dir / "thumbnails")
        self.index = PhotoIndex(root, labels=labels, annotator=annotator)
        self.index.add_files(self.files.files)
        self.index.update_photos(self.catalog.collection(root, with_excluded=True))
        self.index.replace_annotations(self.catalog.annotations())
        self.labeled = threading.Event()

    def close(self) -> None:
        """Closes the catalog."""
        self.catalog.close()

    def act(self, action: Action) -> ActionResult:
        """Applies an action and saves it.

        Raises:
            BadRequestError: A photo does not exist.
            StaleError: A photo has changed since the page showed it.
        """
        states = [self._state(photo_id) for photo_id in action.photos]
        digests = {state.id: self.index.digest_of(state) for state in states}
        seen: dict[str, str] = {}
        for photo_id, version in action.photos.items():
            if seen.setdefault(digests[photo_id], version) != version:
                raise StaleError([digests[photo_id]])
        annotator = self.index.annotator
        shown = {state.id: state.labels(annotator)[0] for state in states}
        with self.catalog.writer(
            action.description, seen, seen=seen, annotator=annotator
        ) as writer:
            write_action(writer, action, digests, shown, annotator)
        self.index.add_labels((*action.labels, *(action.choices or {}).values()))
        return self._result(action.description, tuple(seen))

    def undo(self, number: int) -> ActionResult:
        """Undoes the latest action; raises StaleError if it has another number."""
        return self._replayed(self.catalog.undo(number, annotator=self.index.annotator))

    def redo(self, number: int) -> ActionResult:
        """Redoes the action undone last; raises StaleError if it has another number."""
        return self._replayed(self.catalog.redo(number, annotator=self.index.annotator))

    def thumbnail(self, state: PhotoState, kind: Kind) -> bytes:
        """Returns a photo as JPEG for the screen; raises DecodeError."""
        photo = state.photo
        size = None if photo is None else (photo.width, photo.height)
        return self.thumbnails.get(self.root / state.path, state.id, kind, size=size)

    def refresh(self) -> None:
        """Reads all annotations again; another program may have changed them."""
        self.index.replace_annotations(self.catalog.annotations())

    def _replayed(self, action: Replayed | None) -> ActionResult:
        if action is None:
            raise StaleError(())
        return self._result(action.what, action.digests)

    def _result(self, description: str, digests: Sequence[str]) -> ActionResult:
        self.index.update_annotations(self.catalog.annotations(digests))
        self.index.action_count += 1
        self.labeled.set()
        states = [state for digest in digests for state in self.index.of_digest(digest)]
        return ActionResult(description=description, states=tuple(states))

    def _state(self, photo_id: str) -> PhotoState:
        state = self.index.get(photo_id)
        if state is None:
            raise BadRequestError("There is no such photo.")
        return state
