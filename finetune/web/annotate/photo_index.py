"""All photos of a session as the page sees them: one row a photo, and which rows have changed."""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune.errors import CollectionError
from finetune.photos.analyze import digest_of
from finetune.photos.collection import Collection, Photo
from finetune.photos.labels import find_parts, nfc, place_of
from finetune.photos.near_duplicates.display_groups import detail_score
from finetune.photos.quality import faults
from finetune.photos.walk import FoundFile
from finetune.web.annotate.annotations import EXCLUDE, FLAG, SETTLED, SILENCE, Word


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """What a machine thinks of one photo.

    Attributes:
        ranked: Labels with probabilities, the likeliest first.
        uncertainty: In [0, 1]: 0 for a photo whose label is clear to the machine.
        disagreement: Probability that none of the photo's own labels fits; None without labels.
    """

    ranked: tuple[tuple[str, float], ...] = ()
    uncertainty: float | None = None
    disagreement: float | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """A file of the collection and all that is known of it now.

    Attributes:
        id: Names this content of this file in addresses; says nothing of its path.
        path: Path below the root, with ``/``.
        folder_label: The label that its folder gives it, or None.
        digest: Of its content; None until it has been read.
        photo: What the scan found; None until then, and for a file that cannot be opened.
        problem: Why it cannot be opened, or None.
        word: What people said about it.
        advice: What a machine thinks of it.
        group: Key of its group of near-duplicates; None when it is alone.
        asked: Its rank among the photos to ask about next, from 0; None further back.
        changed_at: The board's clock when the row last changed.
    """

    id: str
    path: str
    folder_label: str | None
    digest: str | None = None
    photo: Photo | None = None
    problem: str | None = None
    word: Word = SILENCE
    advice: Advice | None = None
    group: str | None = None
    asked: int | None = None
    changed_at: int = 0

    def labels(self, annotator: str | None) -> tuple[tuple[str, ...], str]:
        """Returns the labels to show, and whose word they are: person, folder or nobody ("").

        A named annotator sees only what that annotator said, so that two people's words stay
        independent of each other.
        """
        if annotator is not None:
            vote = self.word.votes.get(annotator)
            return ((), "") if vote is None else (vote, "person")
        if self.word.labels is not None:
            return self.word.labels, "person"
        return ((), "") if self.folder_label is None else ((self.folder_label,), "folder")

    def row(self, annotator: str | None) -> dict[str, Any]:
        """Returns the entry as a page shows it; what is not known or not so is left out."""
        labels, by = self.labels(annotator)
        row: dict[str, Any] = {"id": self.id, "path": self.path}
        word, photo, advice = self.word, self.photo, self.advice
        if labels:
            row["labels"] = labels
        if by:
            row["by"] = by
        if word.version:
            row["version"] = word.version
        if FLAG in word.decisions:
            row["flag"] = True
        if EXCLUDE in word.decisions:
            row["out"] = True
        if word.crop is not None:
            row["crop"] = [word.crop.center_x, word.crop.center_y, word.crop.side]
            row["cropBy"] = word.crop_by
        if self.asked is not None:
            row["ask"] = self.asked
        if self.group is not None:
            row["group"] = self.group
        if self.problem is not None:
            row["problem"] = self.problem
        if photo is not None:
            row |= {"width": photo.width, "height": photo.height}
            row["detail"] = round(detail_score(photo), 2)
            if photo.taken_at:
                row["taken"] = photo.taken_at
            if found := faults(photo.quality, photo.width, photo.height):
                row["faults"] = found
        if advice is not None:
            if advice.ranked:
                row["ranked"] = [[label, round(share, 3)] for label, share in advice.ranked]
            if advice.uncertainty is not None:
                row["unsure"] = round(advice.uncertainty, 3)
            if advice.disagreement is not None:
                row["doubt"] = round(advice.disagreement, 3)
        votes = word.votes
        if len(votes) > 1 and (annotator is None or annotator in votes):
            row["votes"] = votes
            row["settled"] = SETTLED in word.decisions
        return row


@dataclass(kw_only=True)
class Progress:
    """How far a background job is.

    Attributes:
        state: ``waiting``, ``running``, ``done`` or ``failed``.
        done: Photos that are done.
        total: Of how many; 0 when not known.
        note: What is being done, or what went wrong.
    """

    state: str = "waiting"
    done: int = 0
    total: int = 0
    note: str = ""


@dataclass(kw_only=True)
class Jobs:
    """The background jobs of a session."""

    scan: Progress = field(default_factory=Progress)
    advice: Progress = field(default_factory=Progress)


class Board:
    """The photos of a session. May be used from any thread.

    Args:
        root: The collection's folder.
        labels: Labels to offer from the start, in the order of their keys.
        annotator: Name of who labels, or None.

    Attributes:
        clock: Grows with each change of a row.
        said: How many actions there were.
        heard: How many of them the machine's advice takes into account.
    """

    def __init__(
        self, root: Path, *, labels: Sequence[str] = (), annotator: str | None = None
    ) -> None:
        self.root = root
        self.annotator = annotator
        self.jobs = Jobs()
        self.clock = 0
        self.said = 0
        self.heard = 0
        self.lock = threading.RLock()
        self._entries: dict[str, Entry] = {}
        self._paths: dict[str, Entry] = {}
        self._digests: defaultdict[str, list[Entry]] = defaultdict(list)
        self._words: dict[str, Word] = {}
        self._labels: dict[str, None] = dict.fromkeys(nfc(label) for label in labels)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label on offer; the place of one never changes during a session."""
        with self.lock:
            return tuple(self._labels)

    def entries(self) -> list[Entry]:
        """Returns all entries, sorted by path."""
        with self.lock:
            return sorted(self._entries.values(), key=lambda entry: entry.path)

    def get(self, photo_id: str) -> Entry | None:
        """Returns the entry with this id, or None."""
        return self._entries.get(photo_id)

    def of_digest(self, digest: str) -> list[Entry]:
        """Returns the entries with this content."""
        with self.lock:
            return list(self._digests.get(digest, ()))

    def digest_of(self, entry: Entry) -> str:
        """Returns the digest of an entry's content; read from the file where no scan has yet.

        Raises:
            CollectionError: The file cannot be read.
        """
        if entry.digest is None:
            try:
                digest = digest_of((self.root / entry.path).read_bytes())
            except OSError as error:
                raise CollectionError(
                    f"{entry.path} cannot be read: {(error.strerror or 'error').lower()}. "
                    "Reload the page to see what is there."
                ) from error
            with self.lock:
                self._give_digest(entry, digest)
        return entry.digest or ""

    def find(self, files: Sequence[FoundFile]) -> None:
        """Takes the files that a walk found."""
        parts = find_parts(file.path for file in files)
        with self.lock:
            self.clock += 1
            for file in files:
                photo_id = _id_of(file)
                if photo_id in self._entries:
                    continue
                label, _ = place_of(file.path, parts)
                entry = Entry(
                    id=photo_id, path=file.path, folder_label=label, changed_at=self.clock
                )
                self._entries[photo_id] = entry
                self._paths[file.path] = entry
            self._offer(sorted({e.folder_label for e in self._entries.values() if e.folder_label}))

    def learn(self, collection: Collection) -> None:
        """Takes what a scan has found so far."""
        with self.lock:
            self.clock += 1
            for photo in collection.photos:
                entry = self._paths.get(photo.path)
                if entry is not None and entry.photo is None:
                    entry.photo = photo
                    self._give_digest(entry, photo.digest)
                    self._touch(entry)
            for problem in collection.problems:
                entry = self._paths.get(problem.path)
                if entry is not None and entry.problem != problem.reason:
                    entry.problem = problem.reason
                    self._touch(entry)

    def hear(self, words: Mapping[str, Word]) -> None:
        """Takes what people say of some photos now, by digest."""
        with self.lock:
            self.clock += 1
            self._words.update(words)
            for digest, word in words.items():
                for entry in self._digests.get(digest, ()):
                    if entry.word != word:
                        entry.word = word
                        self._touch(entry)
            self._offer(sorted({label for word in words.values() for label in word.labels or ()}))

    def hear_all(self, words: Mapping[str, Word]) -> None:
        """Takes all that people say; of every other photo nobody says anything."""
        with self.lock:
            self.hear({**dict.fromkeys(self._words, SILENCE), **words})

    def group(self, groups: Mapping[str, str]) -> None:
        """Takes the groups of near-duplicates: key by path; photos that are alone are left out."""
        with self.lock:
            self.clock += 1
            for path, entry in self._paths.items():
                group = groups.get(path)
                if entry.group != group:
                    entry.group = group
                    self._touch(entry)

    def advise(self, advice: Mapping[str, Advice]) -> None:
        """Takes what a machine thinks, by id."""
        with self.lock:
            self.clock += 1
            for photo_id, thought in advice.items():
                entry = self._entries.get(photo_id)
                if entry is not None and entry.advice != thought:
                    entry.advice = thought
                    self._touch(entry)

    def ask(self, ids: Sequence[str]) -> None:
        """Takes which photos to ask a person about next, the most useful first."""
        with self.lock:
            self.clock += 1
            ranks = {photo_id: rank for rank, photo_id in enumerate(ids)}
            for entry in self._entries.values():
                rank = ranks.get(entry.id)
                if entry.asked != rank:
                    entry.asked = rank
                    self._touch(entry)

    def offer(self, labels: Iterable[str]) -> None:
        """Adds labels to those on offer."""
        with self.lock:
            self._offer(labels)

    def rows(self, since: int = -1) -> list[dict[str, Any]]:
        """Returns the rows that changed after `since` on the board's clock, sorted by path."""
        with self.lock:
            return [
                entry.row(self.annotator) for entry in self.entries() if entry.changed_at > since
            ]

    def _give_digest(self, entry: Entry, digest: str) -> None:
        if entry.digest == digest:
            return
        if entry.digest is not None:
            self._digests[entry.digest].remove(entry)
        entry.digest = digest
        entry.word = self._words.get(digest, SILENCE)
        self._digests[digest].append(entry)

    def _touch(self, entry: Entry) -> None:
        entry.changed_at = self.clock

    def _offer(self, labels: Iterable[str]) -> None:
        for label in labels:
            self._labels.setdefault(label)


def _id_of(file: FoundFile) -> str:
    text = f"{file.path}\0{file.size}\0{file.mtime_ns}"
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
