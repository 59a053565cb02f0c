"""Annotations of photos: labels, crops, groups and decisions, and their one writer."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from finetune.photos.catalog.store import Store, damaged
from finetune.photos.catalog.undo_log import Recorder, Row, Value, now
from finetune.photos.crops import Crop
from finetune.photos.labels import nfc

Source = Literal["person", "model"]

EXCLUDE = "exclude"
"""Decision that leaves a photo out of the collection."""

FLAG = "flag"
"""Decision that flags a photo for review."""

CONFIRMED = "confirmed"
"""Decision that these labels, as JSON, are right although they look wrong."""

STARS = "stars"
"""Decision with a number of stars, from 1 to 5."""

RESOLVED = "settled"
"""Decision that a photo's label is final although annotators disagreed."""

VOTE = "label by "
"""Prefix of the decision with an annotator's labels as JSON; the annotator's name follows."""

_QUERY_KEYS = 900


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """Annotations of one photo by people, and its crop.

    Attributes:
        labels: Empty if no label fits; None if not labeled.
        crop_source: Source of the crop.
        group: Assigned group, or None.
        decisions: Values by kind, such as `FLAG`.
    """

    labels: tuple[str, ...] | None = None
    crop: Crop | None = None
    crop_source: Source | None = None
    group: str | None = None
    decisions: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def version(self) -> str:
        """The version for a page without an annotator; see `version_for`."""
        return self.version_for(None)

    def version_for(self, annotator: str | None) -> str:
        """Returns a short digest of the annotations that an annotator's page shows; empty for none.

        It depends on no clock or process, so a page stays valid when the server restarts, and on
        no vote of another annotator, so that annotators never wait for each other.

        Args:
            annotator: Name of the annotator; None: the page shows the photo's labels.
        """
        crop = self.crop if self.crop_source == "person" else None
        box = None if crop is None else (crop.center_x, crop.center_y, crop.side)
        labels = self.labels if annotator is None else self.votes.get(annotator)
        decisions = [
            item for item in sorted(self.decisions.items()) if not item[0].startswith(VOTE)
        ]
        content = (labels, box, self.group, decisions)
        if content == (None, None, None, []):
            return ""
        text = json.dumps(content, ensure_ascii=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    @property
    def votes(self) -> dict[str, tuple[str, ...]]:
        """Labels by named annotator."""
        return {
            kind.removeprefix(VOTE): tuple(json.loads(value))
            for kind, value in self.decisions.items()
            if kind.startswith(VOTE)
        }


NO_ANNOTATIONS = Annotations()


@dataclass(frozen=True, kw_only=True)
class LabelStyle:
    """Display of a label.

    Attributes:
        position: Place in the list of labels; None: after those with one.
        pinned: Whether it is listed first, and stays although no photo has it.
        hue: Hue of its color in degrees, from 0 to 359; None: chosen by the page.
    """

    position: int | None = None
    pinned: bool = False
    hue: int | None = None


class AnnotationWriter:
    """Writer of annotations by people inside one action; see `Catalog.writer`.

    Attributes:
        annotations: Those before the action, by digest of every photo that it may touch.
    """

    def __init__(self, recorder: Recorder, annotations: Mapping[str, Annotations]) -> None:
        self.annotations = annotations
        self._recorder = recorder

    def set_labels(self, digest: str, labels: Iterable[str] | None) -> None:
        """Replaces a photo's labels.

        An empty sequence records that no label fits, whatever the folder; None clears the labels,
        so that the folder's name counts again.
        """
        before = self.annotations[digest].labels
        chosen: tuple[str, ...] = ()
        if labels is not None:
            chosen = tuple(sorted({nfc(label.strip()) for label in labels} - {""})) or ("",)
        for label in () if before is None else (before or ("",)):
            if label not in chosen:
                self._recorder.remove("label", _label_key(digest, label))
        for label in chosen:
            row = {**_label_key(digest, label), "confidence": None, "recorded_at": now()}
            self._recorder.put("label", row)

    def replace_label(self, digest: str, label: str, other: str | None) -> None:
        """Replaces a label of a photo, and in the votes of all annotators; None removes it."""

        def replaced(labels: tuple[str, ...]) -> tuple[str, ...] | None:
            kept = {*labels} - {label} | ({other} if other is not None else set())
            return tuple(sorted(kept)) or None

        found = self.annotations[digest]
        if label in (found.labels or ()):
            self.set_labels(digest, replaced(found.labels or ()))
        for annotator, labels in found.votes.items():
            if label in labels:
                vote = replaced(labels)
                text = None if vote is None else json.dumps(vote, ensure_ascii=False)
                self.set_decision(digest, VOTE + annotator, text)

    def set_style(self, label: str, style: LabelStyle) -> None:
        """Sets the display of a label."""
        if style == LabelStyle():
            self._recorder.remove("label_style", {"label": label})
            return
        values = {"position": style.position, "pinned": int(style.pinned), "hue": style.hue}
        self._set("label_style", {"label": label}, values)

    def set_decision(self, digest: str, kind: str, value: str | None) -> None:
        """Writes a decision, such as `EXCLUDE`; None removes it."""
        values = None if value is None else {"value": value}
        self._set("decision", {"digest": digest, "kind": kind}, values)

    def set_crop(self, digest: str, crop: Crop | None) -> None:
        """Writes a photo's crop; None removes it."""
        self._set("crop", {"digest": digest}, None if crop is None else crop.to_dict())

    def set_group(self, digest: str, name: str | None) -> None:
        """Assigns a photo to a group; None removes the assignment."""
        values = None if name is None else {"name": nfc(name)}
        self._set("membership", {"digest": digest}, values)

    def _set(self, table: str, key: Row, values: Row | None) -> None:
        if values is None:
            self._recorder.remove(table, key)
        else:
            row = {**key, **values, "source": "person", "recorded_at": now()}
            self._recorder.put(table, row)


def read_annotations(store: Store, digests: Sequence[str] | None = None) -> dict[str, Annotations]:
    """Returns the annotations of these photos, or of all photos that have any, by digest."""
    try:
        return _read_all(store, digests)
    except (TypeError, ValueError) as error:  # a crop outside of the photo, say
        raise damaged(store.path, str(error)) from error


def read_styles(store: Store) -> dict[str, LabelStyle]:
    """Returns the display of the labels that have one."""
    rows = store.read("SELECT label, position, pinned, hue FROM label_style")
    return {
        label: LabelStyle(position=position, pinned=bool(pinned), hue=hue)
        for label, position, pinned, hue in rows
    }


def _read_all(store: Store, digests: Sequence[str] | None) -> dict[str, Annotations]:
    with store.snapshot():
        if digests is None:
            return _read(store, "", ())
        found: dict[str, Annotations] = {}
        for start in range(0, len(digests), _QUERY_KEYS):
            some = tuple(digests[start : start + _QUERY_KEYS])
            found |= _read(store, f" AND digest IN ({', '.join('?' * len(some))})", some)
        return {digest: found.get(digest, NO_ANNOTATIONS) for digest in digests}


def _read(store: Store, condition: str, values: tuple[str, ...]) -> dict[str, Annotations]:
    fields: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for digest, label in store.read(
        f"SELECT digest, label FROM label WHERE source = 'person'{condition} ORDER BY label", values
    ):
        before = fields[digest].get("labels", ())
        fields[digest]["labels"] = (*before, label) if label else before
    for digest, x, y, side, source in store.read(
        f"SELECT digest, center_x, center_y, side, source FROM crop WHERE 1{condition}", values
    ):
        crop = Crop(center_x=x, center_y=y, side=side)
        fields[digest] |= {"crop": crop, "crop_source": source}
    for digest, name in store.read(
        f"SELECT digest, name FROM membership WHERE 1{condition}", values
    ):
        fields[digest]["group"] = name
    for digest, kind, value in store.read(
        f"SELECT digest, kind, value FROM decision WHERE 1{condition} ORDER BY kind", values
    ):
        fields[digest].setdefault("decisions", {})[kind] = value
    return {digest: Annotations(**found) for digest, found in fields.items()}


def _label_key(digest: str, label: str) -> dict[str, Value]:
    return {"digest": digest, "label": label, "source": "person"}
