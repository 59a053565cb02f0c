"""In-memory index of a session's photos and of their changes."""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import CollectionError
from finetune.photos.analyze import digest_of
from finetune.photos.catalog.annotations import NO_ANNOTATIONS, Annotations, LabelStyle
from finetune.photos.collection import Collection
from finetune.photos.labels import find_parts
from finetune.photos.scan import FoundFile
from finetune.web.annotate.descriptions import UNREADABLE
from finetune.web.annotate.jobs import Jobs
from finetune.web.annotate.label_list import LabelList
from finetune.web.annotate.photo_state import CohortOffer, PhotoState, Suggestions, labels_of
from finetune.web.annotate.review import Review


class PhotoIndex:
    """Photos of a session. May be used from any thread.

    Args:
        root: The collection's folder.
        labels: Labels to offer from the start, in the order of their keys.
        annotator: Name of the annotator, or None.

    Attributes:
        clock: Increases with each change of a row.
        action_count: Number of actions so far.
        suggested_count: Number of actions included in the suggestions.
        cohort: Photos that are safe to label together, or None.
    """

    def __init__(
        self, root: Path, *, labels: Sequence[str] = (), annotator: str | None = None
    ) -> None:
        self.root = root
        self.annotator = annotator
        self.jobs = Jobs()
        self.clock = 0
        self.action_count = 0
        self.suggested_count = 0
        self.cohort: CohortOffer | None = None
        self.lock = threading.RLock()
        self._states: dict[str, PhotoState] = {}
        self._paths: dict[str, PhotoState] = {}
        self._digests: defaultdict[str, list[PhotoState]] = defaultdict(list)
        self._annotations: dict[str, Annotations] = {}
        self._gone: dict[str, int] = {}
        self._labels = LabelList(labels)

    def __len__(self) -> int:
        return len(self._states)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in display order: offered ones, pinned ones, and those that a photo has."""
        with self.lock:
            return self._labels.in_order()

    @property
    def styles(self) -> Mapping[str, LabelStyle]:
        """Display of the labels that have one."""
        return self._labels.styles

    def states(self) -> list[PhotoState]:
        """Returns all photos, sorted by path."""
        with self.lock:
            return sorted(self._states.values(), key=lambda state: state.path)

    def get(self, photo_id: str) -> PhotoState | None:
        """Returns the photo with this id, or None."""
        return self._states.get(photo_id)

    def of_digest(self, digest: str) -> list[PhotoState]:
        """Returns the photos with this content."""
        with self.lock:
            return list(self._digests.get(digest, ()))

    def with_label(self, label: str | None) -> tuple[PhotoState, ...]:
        """Returns the photos with a label, be it of a person, an annotator's vote or a folder."""
        with self.lock:
            return tuple(state for state in self._states.values() if label in labels_of(state))

    def group_name(self, digest: str) -> str | None:
        """Returns the group that a person assigned to a photo."""
        return self._annotations.get(digest, NO_ANNOTATIONS).group

    def digest_of(self, state: PhotoState) -> str:
        """Returns the digest of a photo; reads the file if it has not been scanned yet.

        Raises:
            CollectionError: The file cannot be read.
        """
        if state.digest is None:
            try:
                digest = digest_of((self.root / state.path).read_bytes())
            except OSError as error:
                reason = (error.strerror or "error").lower()
                raise CollectionError(UNREADABLE.format(path=state.path, reason=reason)) from error
            with self.lock:
                self._set_digest(state, digest)
        return state.digest or ""

    def add_files(self, files: Sequence[FoundFile]) -> None:
        """Adds the files found in the folder."""
        parts = find_parts(file.path for file in files)
        with self.lock:
            self.clock += 1
            added = []
            labels: dict[str, str | None] = {}
            for file in files:
                photo_id = _id_of(file)
                if photo_id in self._states:
                    continue
                folder = file.path.rpartition("/")[0]
                if folder not in labels:
                    labels[folder], _ = parts.place(file.path)
                label = labels[folder]
                state = PhotoState(
                    id=photo_id, path=file.path, folder_label=label, changed_at=self.clock
                )
                self._states[photo_id] = self._paths[file.path] = state
                self._gone.pop(photo_id, None)
                added.append(state)
            fresh = {state.folder_label for state in added}
            self._labels.add(sorted(label for label in fresh if label))
            # New photos have no other labels yet.
            self._labels.uses.update(state.folder_label for state in added if state.folder_label)

    def set_digests(self, digests: Mapping[str, str]) -> None:
        """Sets the digests of files, by path, as they were when the catalog was written.

        A file that has changed since has another id once it has been scanned.
        """
        with self.lock:
            for path, digest in digests.items():
                if (state := self._paths.get(path)) is not None and state.digest is None:
                    self._set_digest(state, digest)

    def first_rows(self, limit: int, *, named: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Returns the rows to start with: photos without a label first, and named ones.

        Args:
            limit: Number of rows.
            named: Ids or paths of photos that are always among them.
        """
        with self.lock:
            states = self.states()
            is_open = {id(s): not s.labels(self.annotator)[1] and not s.problem for s in states}
            states.sort(key=lambda s: (not is_open[id(s)], s.rank is None, s.rank or 0))
            chosen = [
                state
                for place, state in enumerate(states)
                if place < limit or state.id in named or state.path in named
            ]
            return [state.row(self.annotator) for state in chosen]

    def keep_files(self, files: Sequence[FoundFile]) -> bool:
        """Removes photos whose files are not among those found; returns whether there were any."""
        kept = {_id_of(file) for file in files}
        with self.lock:
            lost = [state for photo_id, state in self._states.items() if photo_id not in kept]
            if not lost:
                return False
            self.clock += 1
            for state in lost:
                del self._states[state.id]
                if self._paths.get(state.path) is state:
                    del self._paths[state.path]
                if state.digest is not None:
                    self._digests[state.digest].remove(state)
                self._labels.uses.subtract(labels_of(state))
                self._gone[state.id] = self.clock
            return True

    def gone(self, since: int) -> list[str]:
        """Returns the ids of photos that were removed after `since`, a value of `clock`."""
        return [photo_id for photo_id, clock in self._gone.items() if clock > since >= 0]

    def update_photos(self, collection: Collection) -> None:
        """Adds the results of a scan, which may still be running."""
        with self.lock:
            self.clock += 1
            for photo in collection.photos:
                state = self._paths.get(photo.path)
                if state is not None and state.photo is None:
                    state.photo = photo
                    self._set_digest(state, photo.digest)
                    state.changed_at = self.clock
            for problem in collection.problems:
                state = self._paths.get(problem.path)
                if state is not None:
                    self._set(state, "problem", problem.reason)

    def update_annotations(self, annotations: Mapping[str, Annotations]) -> None:
        """Sets the annotations of some photos, by digest."""
        with self.lock:
            self.clock += 1
            self._annotations.update(annotations)
            names: set[str] = set()
            for digest, found in annotations.items():
                for state in self._digests.get(digest, ()):
                    self._set_annotations(state, found)
                    names |= labels_of(state)
            self._labels.add(sorted(names))

    def withdraw(self, label: str) -> None:
        """Offers a label no longer unless a photo has it."""
        with self.lock:
            self._labels.withdraw(label)

    def set_styles(self, styles: Mapping[str, LabelStyle]) -> None:
        """Sets the display of labels."""
        with self.lock:
            self._labels.styles = styles
            self._labels.add(sorted(styles))

    def replace_annotations(self, annotations: Mapping[str, Annotations]) -> None:
        """Sets all annotations, by digest; photos not among them have none."""
        with self.lock:
            self.update_annotations(
                {**dict.fromkeys(self._annotations, NO_ANNOTATIONS), **annotations}
            )

    def set_groups(self, groups: Mapping[str, str]) -> None:
        """Sets the near-duplicate groups: the group's key by path."""
        self._update("group", {state.id: groups.get(state.path) for state in self.states()})

    def update_suggestions(self, suggestions: Mapping[str, Suggestions]) -> None:
        """Sets the suggestions of some photos, by id."""
        self._update("suggestions", suggestions)

    def set_review(self, review: Review) -> int:
        """Marks the photos to review, and returns their number."""
        found = {state.id: review.includes(state.path, state.digest) for state in self.states()}
        self._update("review", found)
        return sum(found.values())

    def set_ranking(self, ids: Sequence[str]) -> None:
        """Sets the photos to label next, the most informative first."""
        ranks = {photo_id: rank for rank, photo_id in enumerate(ids)}
        self._update("rank", {state.id: ranks.get(state.id) for state in self.states()})

    def rows(
        self, since: int = -1, *, after: str = "", limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Returns the rows that changed after `since` (a value of `clock`), sorted by path.

        Args:
            since: A value of `clock`.
            after: Only rows of later paths.
            limit: Maximum number of rows.
        """
        with self.lock:
            found = [
                state
                for state in self._states.values()
                if state.changed_at > since and state.path > after
            ]
            found.sort(key=lambda state: state.path)
            return [state.row(self.annotator) for state in found[:limit]]

    def _set_digest(self, state: PhotoState, digest: str) -> None:
        if state.digest == digest:
            return
        if state.digest is not None:
            self._digests[state.digest].remove(state)
        state.digest = digest
        self._set_annotations(state, self._annotations.get(digest, NO_ANNOTATIONS))
        self._labels.add(sorted(labels_of(state)))
        self._digests[digest].append(state)

    def _set_annotations(self, state: PhotoState, annotations: Annotations) -> None:
        self._labels.uses.subtract(labels_of(state))
        self._set(state, "annotations", annotations)
        self._labels.uses.update(labels_of(state))

    def _update(self, name: str, values: Mapping[str, object]) -> None:
        with self.lock:
            self.clock += 1
            for photo_id, value in values.items():
                if (state := self._states.get(photo_id)) is not None:
                    self._set(state, name, value)

    def _set(self, state: PhotoState, name: str, value: object) -> None:
        if getattr(state, name) != value:
            setattr(state, name, value)
            state.changed_at = self.clock


def _id_of(file: FoundFile) -> str:
    text = f"{file.path}\0{file.size}\0{file.mtime_ns}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
