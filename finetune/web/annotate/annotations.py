"""What people said about photos, changed one action at a time and never over somebody's head."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from finetune.photos.catalog import undo_log
from finetune.photos.catalog.catalog import Catalog
from finetune.photos.crops import Crop
from finetune.photos.labels import nfc

EXCLUDE = "exclude"
"""The decision that leaves a photo out of the collection."""

FLAG = "flag"
"""The decision that marks a photo to be looked at again."""

SETTLED = "settled"
"""The decision that a photo's label stands although annotators disagreed."""

VOTE = "label by "
"""Before an annotator's name: the decision that holds that annotator's labels as JSON."""

_QUERY_KEYS = 900


@dataclass(frozen=True, kw_only=True)
class Word:
    """All that people said about one photo.

    Attributes:
        labels: Its labels; empty where a person said that none fits, None where nobody spoke.
        crop: Its square, or None.
        crop_by: Who chose the square.
        group: The group that a person put it in, or None.
        decisions: What else was decided, by kind.
    """

    labels: tuple[str, ...] | None = None
    crop: Crop | None = None
    crop_by: str | None = None
    group: str | None = None
    decisions: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def version(self) -> str:
        """A short digest of all that people said: equal exactly where they said the same.

        It depends on no clock or process, so a page stays valid when the server starts again.
        """
        crop = self.crop if self.crop_by == "person" else None
        box = None if crop is None else (crop.center_x, crop.center_y, crop.side)
        said = (self.labels, box, self.group, sorted(self.decisions.items()))
        if said == (None, None, None, []):
            return ""
        text = json.dumps(said, ensure_ascii=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    @property
    def votes(self) -> dict[str, tuple[str, ...]]:
        """The labels that each named annotator gave, by annotator."""
        return {
            kind.removeprefix(VOTE): tuple(json.loads(value))
            for kind, value in self.decisions.items()
            if kind.startswith(VOTE)
        }


SILENCE = Word()
"""The word on a photo about which nobody spoke."""


class StaleError(Exception):
    """Somebody changed these photos after they were shown; nothing was written.

    Attributes:
        digests: The photos.
    """

    def __init__(self, digests: Sequence[str]) -> None:
        super().__init__(f"{len(digests)} photos have changed since")
        self.digests = tuple(digests)


class Pen:
    """Writes a person's words inside one action; see `WordCatalog.act`."""

    def __init__(self, recorder: undo_log.Recorder, words: Mapping[str, Word]) -> None:
        self.words = words
        self._recorder = recorder

    def label(self, digest: str, labels: Iterable[str] | None) -> None:
        """Says which labels fit; none of them with an empty sequence, nothing with None."""
        before = self.words[digest].labels
        wanted: tuple[str, ...] = ()
        if labels is not None:
            wanted = tuple(sorted({nfc(label.strip()) for label in labels} - {""})) or ("",)
        for label in before if before else () if before is None else ("",):
            if label not in wanted:
                self._recorder.remove("label", _key(digest, label))
        for label in wanted:
            self._recorder.put(
                "label", {**_key(digest, label), "confidence": None, "said_at": undo_log.now()}
            )

    def decide(self, digest: str, kind: str, value: str | None) -> None:
        """Writes a decision; None takes it back."""
        if value is None:
            self._recorder.remove("decision", {"digest": digest, "kind": kind})
            return
        row: dict[str, undo_log.Value] = {"digest": digest, "kind": kind, "value": value}
        self._recorder.put("decision", {**row, "source": "person", "said_at": undo_log.now()})

    def crop(self, digest: str, crop: Crop | None) -> None:
        """Writes a photo's square; None takes it away."""
        if crop is None:
            self._recorder.remove("crop", {"digest": digest})
            return
        row: dict[str, undo_log.Value] = {"digest": digest, **crop.to_dict()}
        self._recorder.put("crop", {**row, "source": "person", "said_at": undo_log.now()})

    def group(self, digest: str, name: str | None) -> None:
        """Puts a photo into a group; None takes it out of the one it was put in."""
        if name is None:
            self._recorder.remove("membership", {"digest": digest})
            return
        row: dict[str, undo_log.Value] = {"digest": digest, "name": nfc(name)}
        self._recorder.put("membership", {**row, "source": "person", "said_at": undo_log.now()})


class WordCatalog(Catalog):
    """A catalog in which several pages write: each action says what its page had seen."""

    def words(self, digests: Sequence[str] | None = None) -> dict[str, Word]:
        """Returns what people said, by digest; of these photos, or of all that anybody spoke of."""
        if digests is None:
            return self._words("", ())
        found: dict[str, Word] = {}
        for start in range(0, len(digests), _QUERY_KEYS):
            some = tuple(digests[start : start + _QUERY_KEYS])
            found |= self._words(f" AND digest IN ({', '.join('?' * len(some))})", some)
        return {digest: found.get(digest, SILENCE) for digest in digests}

    def _words(self, which: str, values: tuple[str, ...]) -> dict[str, Word]:
        fields: defaultdict[str, dict[str, Any]] = defaultdict(dict)
        # One lock for all four, so that they are of the same moment in this process.
        with self._lock:
            labels = self._all(
                f"SELECT digest, label FROM label WHERE source = 'person'{which} ORDER BY label",
                values,
            )
            crops = self._all(
                f"SELECT digest, center_x, center_y, side, source FROM crop WHERE 1{which}", values
            )
            groups = self._all(f"SELECT digest, name FROM membership WHERE 1{which}", values)
            decisions = self._all(
                f"SELECT digest, kind, value FROM decision WHERE 1{which} ORDER BY kind", values
            )
        for digest, label in labels:
            before = fields[digest].get("labels", ())
            fields[digest]["labels"] = (*before, label) if label else before
        for digest, x, y, side, source in crops:
            crop = Crop(center_x=x, center_y=y, side=side)
            fields[digest] |= {"crop": crop, "crop_by": source}
        for digest, name in groups:
            fields[digest]["group"] = name
        for digest, kind, value in decisions:
            fields[digest].setdefault("decisions", {})[kind] = value
        return {digest: Word(**values) for digest, values in fields.items()}

    def act(self, what: str, seen: Mapping[str, str], write: Callable[[Pen], None]) -> None:
        """Lets `write` say something, as one action that can be undone; on disk when it returns.

        Args:
            what: The action in words.
            seen: The `Word.version` that the person had before them, by digest of every photo
                that `write` touches.
            write: Writes with the pen that it is given.

        Raises:
            StaleError: Somebody else changed one of the photos since; nothing was written.
        """
        with self._act(what) as recorder:
            words = self.words(list(seen))
            stale = [digest for digest, word in words.items() if word.version != seen[digest]]
            if stale:
                raise StaleError(stale)
            write(Pen(recorder, words))

    def latest(self) -> tuple[int, int]:
        """Returns the numbers of the action that undo, and that redo, would touch; 0 for none."""
        (undo,) = self._all("SELECT max(id) FROM journal WHERE undone = 0")
        (redo,) = self._all("SELECT min(id) FROM journal WHERE undone = 1")
        return undo[0] or 0, redo[0] or 0

    def take_back(self, number: int) -> tuple[str, tuple[str, ...]]:
        """Undoes the latest action; returns what it was and the photos that it touched.

        Raises:
            StaleError: The latest action is not this one.
        """
        return self._replay(number, backwards=True)

    def bring_back(self, number: int) -> tuple[str, tuple[str, ...]]:
        """Redoes the action that was undone last; otherwise as `take_back`."""
        return self._replay(number, backwards=False)

    def _replay(self, number: int, *, backwards: bool) -> tuple[str, tuple[str, ...]]:
        with self._write() as connection:
            if not number or self.latest()[0 if backwards else 1] != number:
                raise StaleError(())
            ((text,),) = self._all("SELECT changes FROM journal WHERE id = ?", (number,))
            what = undo_log.undo(connection) if backwards else undo_log.redo(connection)
        touched = {(after or before)["digest"] for _, before, after in json.loads(text)}
        return what or "", tuple(sorted(touched))


def _key(digest: str, label: str) -> dict[str, undo_log.Value]:
    return {"digest": digest, "label": label, "source": "person"}
