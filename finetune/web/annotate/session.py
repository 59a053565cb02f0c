"""A labeling session: a catalog, its photos as the page sees them, and what is done to them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.files import collection_cache_dir
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.walk import require_photos
from finetune.web.annotate.actions import Action, BadRequestError, writer_of
from finetune.web.annotate.annotations import StaleError, WordCatalog
from finetune.web.annotate.photo_index import Board, Entry
from finetune.web.annotate.thumbnails import Kind, Thumbnails


@dataclass(frozen=True, kw_only=True)
class Done:
    """What an action did.

    Attributes:
        what: In words.
        entries: The photos that may have changed.
    """

    what: str
    entries: tuple[Entry, ...]


class Session:
    """One person's work on one collection. May be used from any thread.

    Args:
        root: The collection's folder.
        catalog: Where its catalog is kept, as in `finetune.photos.scan.scan`.
        labels: Labels to offer from the start, in the order of their keys.
        annotator: Name of who labels, or None.

    Raises:
        CollectionError: There is no such folder, or it holds no photo.
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
        self.catalog_place = catalog
        self.found = require_photos(root, advice=_EXPECTED)
        with open_catalog(root, catalog) as opened:
            self.catalog_file = opened.path
        self.catalog = WordCatalog(self.catalog_file)
        self.home = collection_cache_dir(root, catalog)
        self.thumbnails = Thumbnails(self.home / "thumbnails")
        self.board = Board(root, labels=labels, annotator=annotator)
        self.board.find(self.found.files)
        self.board.learn(self.catalog.collection(root, with_excluded=True))
        self.board.hear_all(self.catalog.words())
        self.labeled = threading.Event()

    def close(self) -> None:
        """Closes the catalog."""
        self.catalog.close()

    def act(self, action: Action) -> Done:
        """Does what a page asks for; it is on disk when this returns.

        Raises:
            BadRequestError: It names a photo that is not there.
            StaleError: A photo was changed since the page showed it.
        """
        entries = [self._entry(photo_id) for photo_id in action.photos]
        digests = {entry.id: self.board.digest_of(entry) for entry in entries}
        seen: dict[str, str] = {}
        for photo_id, version in action.photos.items():
            if seen.setdefault(digests[photo_id], version) != version:
                raise StaleError([digests[photo_id]])
        annotator = self.board.annotator
        shown = {entry.id: entry.labels(annotator)[0] for entry in entries}
        self.catalog.act(action.what, seen, writer_of(action, digests, shown, annotator))
        self.board.offer((*action.labels, *(action.choices or {}).values()))
        return self._done(action.what, tuple(seen))

    def undo(self, number: int) -> Done:
        """Takes the latest action back; raises StaleError where it is not this one."""
        return self._done(*self.catalog.take_back(number))

    def redo(self, number: int) -> Done:
        """Does again what was undone last; raises StaleError where it is not this one."""
        return self._done(*self.catalog.bring_back(number))

    def copy_of(self, entry: Entry, kind: Kind) -> bytes:
        """Returns a photo as a JPEG for the screen; raises DecodeError."""
        photo = entry.photo
        size = None if photo is None else (photo.width, photo.height)
        return self.thumbnails.get(self.root / entry.path, entry.id, kind, size=size)

    def refresh(self) -> None:
        """Reads again what people said: another program may have written."""
        self.board.hear_all(self.catalog.words())

    def _done(self, what: str, digests: Sequence[str]) -> Done:
        self.board.hear(self.catalog.words(digests))
        self.board.said += 1
        self.labeled.set()
        entries = [entry for digest in digests for entry in self.board.of_digest(digest)]
        return Done(what=what, entries=tuple(entries))

    def _entry(self, photo_id: str) -> Entry:
        entry = self.board.get(photo_id)
        if entry is None:
            raise BadRequestError("There is no such photo.")
        return entry


_EXPECTED = "Give a folder of photos, with or without sub-folders."
