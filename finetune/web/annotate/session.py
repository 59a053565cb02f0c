"""Labeling session: catalog, photo index and actions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.files import collection_cache_dir
from finetune.photos.catalog.catalog import open_catalog
from finetune.photos.catalog.undo_log import Replayed, StaleError
from finetune.photos.scan import FoundFile, find_photos, found_file, require_photos
from finetune.web.annotate.actions import Action, BadRequestError, write_action
from finetune.web.annotate.descriptions import NO_SUCH_LABEL, NO_SUCH_PHOTO
from finetune.web.annotate.label_edits import LabelEdit, write_label_edit
from finetune.web.annotate.metadata import Place
from finetune.web.annotate.photo_index import PhotoIndex
from finetune.web.annotate.photo_state import PhotoState
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
        limit: Number of photos to find at first, so that the page appears soon; `find_all` finds
            the others. None: all.

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
        limit: int | None = None,
    ) -> None:
        self.root = root
        self.catalog_path = catalog
        self.files = require_photos(
            root, advice="Give a folder of photos, with or without subfolders.", limit=limit
        )
        self.is_complete = limit is None or len(self.files.files) < limit
        self.shown = threading.Event()
        self.catalog = open_catalog(root, catalog)
        self.cache_dir = collection_cache_dir(root, catalog)
        self.thumbnails = Thumbnails(self.cache_dir / "thumbnails")
        self.index = PhotoIndex(root, labels=labels, annotator=annotator)
        self.index.add_files(self.files.files)
        if self.is_complete:
            self._read_catalog()
        else:
            self._add_unlabeled(limit or 0)
        self.labeled = threading.Event()
        self.regroup = threading.Event()
        self.place_of: dict[str, Place | None] = {}

    def _read_catalog(self) -> None:
        self.index.update_photos(self.catalog.collection(self.root, with_excluded=True))
        self.refresh()

    def _add_unlabeled(self, limit: int) -> None:
        """Adds photos that had no label when the catalog was written last."""
        self.index.set_styles(self.catalog.label_styles())
        known = self.catalog.unlabeled(limit)
        found = [file for path in known if (file := found_file(self.root, path)) is not None]
        self.index.add_files(found)
        digests = self.catalog.digests([state.path for state in self.index.states()])
        self.index.set_digests(digests)
        self.index.update_annotations(self.catalog.annotations(list(set(digests.values()))))

    def find_all(self) -> None:
        """Finds the photos that are not among the first ones."""
        self.files = find_photos(self.root)
        self.index.add_files(self.files.files)
        self.index.keep_files(self.files.files)
        self._read_catalog()
        self.is_complete = True

    def close(self) -> None:
        """Closes the catalog."""
        self.catalog.close()

    def find_changes(self) -> bool:
        """Looks for new, changed and removed files; returns whether there were any.

        A folder that cannot be read, such as one on a drive that was unplugged, has not changed.
        """
        try:
            found = find_photos(self.root)
        except OSError:
            return False
        if not found.files or [_key(f) for f in found.files] == [_key(f) for f in self.files.files]:
            return False
        self.files = found
        self.index.add_files(found.files)
        self.index.keep_files(found.files)
        return True

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
        return self._result(action.description, tuple(seen))

    def edit_label(self, edit: LabelEdit) -> ActionResult:
        """Renames, merges, deletes, orders or styles labels, for all photos at once.

        Raises:
            BadRequestError: The label does not exist, or is that of a folder and cannot be deleted.
            CollectionError: A photo with the label cannot be read.
        """
        if edit.label is not None and edit.label not in self.index.labels:
            raise BadRequestError(NO_SUCH_LABEL.format(label=repr(edit.label)))
        photos = self.index.with_label(edit.label) if edit.changes_photos else ()
        digests = {self.index.digest_of(state): state for state in photos}
        with self.catalog.writer(
            edit.description, digests, annotator=self.index.annotator
        ) as writer:
            write_label_edit(
                writer,
                edit,
                {digest: state.folder_label for digest, state in digests.items()},
                self.index.labels,
                self.catalog.label_styles(),
            )
        if edit.label is not None and edit.changes_photos:
            self.index.withdraw(edit.label)
        return self._result(edit.description, tuple(digests))

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

    def places(self) -> list[tuple[str, float, float]]:
        """Returns id, latitude and longitude of the photos whose place has been read."""
        index = self.index
        return [
            (photo_id, *place)
            for photo_id, place in list(self.place_of.items())
            if place is not None and index.get(photo_id) is not None
        ]

    def refresh(self) -> None:
        """Reads all annotations again; another program may have changed them."""
        self.index.set_styles(self.catalog.label_styles())
        self.index.replace_annotations(self.catalog.annotations())

    def _replayed(self, action: Replayed | None) -> ActionResult:
        if action is None:
            raise StaleError(())
        return self._result(action.what, action.digests)

    def _result(self, description: str, digests: Sequence[str]) -> ActionResult:
        self.index.set_styles(self.catalog.label_styles())
        groups = {digest: self.index.group_name(digest) for digest in digests}
        self.index.update_annotations(self.catalog.annotations(digests))
        if any(self.index.group_name(digest) != name for digest, name in groups.items()):
            self.regroup.set()
        self.index.action_count += 1
        self.labeled.set()
        states = [state for digest in digests for state in self.index.of_digest(digest)]
        return ActionResult(description=description, states=tuple(states))

    def _state(self, photo_id: str) -> PhotoState:
        state = self.index.get(photo_id)
        if state is None:
            raise BadRequestError(NO_SUCH_PHOTO)
        return state


def _key(file: FoundFile) -> tuple[str, int, int]:
    return file.path, file.size, file.mtime_ns
