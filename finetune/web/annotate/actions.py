"""Actions on photos: validation of requests, and writing to the catalog."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.errors import PhotoError
from finetune.formatting import count
from finetune.photos.catalog.annotations import (
    CONFIRMED,
    EXCLUDE,
    FLAG,
    RESOLVED,
    STARS,
    VOTE,
    AnnotationWriter,
)
from finetune.photos.crops import Crop
from finetune.photos.labels import nfc
from finetune.photos.split.grouping import ALONE
from finetune.web.annotate.descriptions import ACTIONS, LABEL_LENGTH, LABEL_LINE, NO_LABEL

FIELDS: Mapping[str, tuple[str, ...]] = {
    "label": ("labels",),
    "add": ("labels",),
    "remove": ("labels",),
    "accept": ("choices",),
    "clear": (),
    "confirm": (),
    "resolve": ("labels",),
    "flag": (),
    "unflag": (),
    "reject": (),
    "restore": (),
    "keep": ("keeper",),
    "crop": ("crop",),
    "stars": ("stars",),
    "together": (),
    "apart": (),
}
"""Kinds of actions, with the fields of their requests besides ``kind`` and ``photos``."""

MAX_PHOTOS = 20_000
MAX_LABELS = 50
MAX_STARS = 5
MAX_LABEL_LENGTH = 200

_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029\ud800-\udfff]")
_ID = re.compile(r"[0-9a-f]{16}")
_VERSION = re.compile(r"(?:[0-9a-f]{12})?")


class BadRequestError(Exception):
    """Invalid request."""


@dataclass(frozen=True, kw_only=True)
class Action:
    """Validated request.

    Attributes:
        kind: Kind of action.
        photos: Version of each photo that the page showed, by id.
        labels: For `label`, `add`, `remove` and `resolve`.
        choices: For `accept`: the label of each photo, by id; empty if no label fits.
        crop: For `crop`; None removes the crop.
        keeper: For `keep`: id of the photo to keep.
        stars: For `stars`: from 0 to 5.
    """

    kind: str
    photos: Mapping[str, str]
    labels: tuple[str, ...] = ()
    choices: Mapping[str, str] | None = None
    crop: Crop | None = None
    keeper: str | None = None
    stars: int = 0

    @property
    def description(self) -> str:
        """Description as shown after the action and by undo."""
        labels = self.labels
        if self.choices is not None:
            labels = tuple(sorted(set(self.choices.values()))[:3])
        connect = " + " if self.choices is None else ", "
        names = connect.join(repr(label) if label else NO_LABEL for label in labels) or NO_LABEL
        photos, stars = count(len(self.photos), "photo"), count(self.stars, "star")
        return ACTIONS[self.kind].format(photos=photos, names=names, stars=stars)


def read_action(body: object) -> Action:
    """Returns the action of a JSON request.

    Raises:
        BadRequestError: The request is invalid.
    """
    if not isinstance(body, dict):
        raise BadRequestError("The request must be a JSON object.")
    kind = body.get("kind")
    if not isinstance(kind, str) or kind not in FIELDS:
        raise BadRequestError("'kind' is not an action.")
    allowed = {"kind", "photos", *FIELDS[kind]}
    if set(body) != allowed:
        raise BadRequestError(f"The action {kind} has the keys {', '.join(sorted(allowed))}.")
    photos = _photos(body["photos"])
    values: dict[str, Any] = {}
    if "labels" in body:
        values["labels"] = _labels(body["labels"])
        if kind in {"add", "remove"} and not values["labels"]:
            raise BadRequestError("'labels' must name a label.")
    if "choices" in body:
        values["choices"] = _choices(body["choices"], photos)
    if "crop" in body:
        values["crop"] = _crop(body["crop"])
    if "keeper" in body:
        if not isinstance(body["keeper"], str) or body["keeper"] not in photos:
            raise BadRequestError("'keeper' must be one of the photos.")
        values["keeper"] = body["keeper"]
    if "stars" in body:
        if type(body["stars"]) is not int or not 0 <= body["stars"] <= MAX_STARS:
            raise BadRequestError(f"'stars' must be an integer from 0 to {MAX_STARS}.")
        values["stars"] = body["stars"]
    return Action(kind=kind, photos=photos, **values)


def _photos(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_PHOTOS:
        raise BadRequestError(f"'photos' must be an object with 1 to {MAX_PHOTOS:,} photos.")
    for photo_id, version in value.items():
        if not _ID.fullmatch(photo_id):
            raise BadRequestError("'photos' has a key that is not a photo id.")
        if not isinstance(version, str) or not _VERSION.fullmatch(version):
            raise BadRequestError("'photos' has a value that is not a version.")
    return value


def read_label(value: object) -> str:
    """Returns a label in NFC.

    Raises:
        BadRequestError: It is empty, too long, or contains control characters.
    """
    if not isinstance(value, str) or _CONTROL.search(value):
        raise BadRequestError(LABEL_LINE)
    label = nfc(value.strip())
    if not 1 <= len(label) <= MAX_LABEL_LENGTH:
        raise BadRequestError(LABEL_LENGTH.format(most=MAX_LABEL_LENGTH))
    return label


def _labels(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_LABELS:
        raise BadRequestError(f"'labels' must be a list of {MAX_LABELS} labels or fewer.")
    return tuple(dict.fromkeys(read_label(label) for label in value))


def _choices(value: object, photos: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(value, dict) or set(value) != set(photos):
        raise BadRequestError("'choices' must have a label for each of the photos.")
    return {photo: "" if label == "" else read_label(label) for photo, label in value.items()}


def _crop(value: object) -> Crop | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3:
        raise BadRequestError("'crop' must be null or [center_x, center_y, side].")
    try:
        return Crop(center_x=value[0], center_y=value[1], side=value[2])
    except PhotoError as error:
        raise BadRequestError(str(error)) from error


def write_action(
    writer: AnnotationWriter,
    action: Action,
    digests: Mapping[str, str],
    shown: Mapping[str, tuple[str, ...]],
    annotator: str | None,
) -> None:
    """Writes an action to the catalog.

    Args:
        writer: The catalog's writer.
        action: The action.
        digests: Digest of each of its photos, by id.
        shown: Labels of each photo on the page, by id.
        annotator: Name of the annotator, or None.
    """
    for photo_id, digest in digests.items():
        match action.kind:
            case "label":
                given = tuple(sorted(set(action.labels)))
                # The label that it has already, given once more, is a confirmation.
                _set_confirmed(writer, digest, given if given == shown[photo_id] else None)
                _set_labels(writer, digest, action.labels, annotator)
            case "confirm":
                _set_confirmed(writer, digest, tuple(sorted(shown[photo_id])))
                _set_labels(writer, digest, shown[photo_id], annotator)
            case "add":
                _set_labels(writer, digest, (*shown[photo_id], *action.labels), annotator)
            case "remove":
                rest = set(shown[photo_id]) - set(action.labels)
                _set_labels(writer, digest, rest, annotator)
            case "accept":
                label = (action.choices or {})[photo_id]
                _set_labels(writer, digest, (label,) if label else (), annotator)
            case "clear":
                _set_labels(writer, digest, None, annotator)
            case "resolve":
                writer.set_labels(digest, action.labels)
                writer.set_decision(digest, RESOLVED, "yes")
            case "flag" | "unflag":
                writer.set_decision(digest, FLAG, "yes" if action.kind == "flag" else None)
            case "reject":
                writer.set_decision(digest, EXCLUDE, "rejected")
            case "restore":
                writer.set_decision(digest, EXCLUDE, None)
            case "keep":
                kept = digest == digests[action.keeper or ""]
                writer.set_decision(digest, EXCLUDE, None if kept else "duplicate")
            case "crop":
                writer.set_crop(digest, action.crop)
            case "stars":
                stars = str(action.stars) if action.stars else None
                writer.set_decision(digest, STARS, stars)
            case "together":
                writer.set_group(digest, f"group {min(digests.values())}")
            case "apart":
                writer.set_group(digest, f"{ALONE}{digest}")


def _set_confirmed(writer: AnnotationWriter, digest: str, labels: tuple[str, ...] | None) -> None:
    value = None if labels is None else json.dumps(labels, ensure_ascii=False)
    writer.set_decision(digest, CONFIRMED, value)


def _set_labels(
    writer: AnnotationWriter,
    digest: str,
    labels: tuple[str, ...] | set[str] | None,
    annotator: str | None,
) -> None:
    """Writes an annotator's vote, and the photo's labels unless another annotator set them.

    If annotators differ, the photo keeps its first label until the conflict is resolved.
    """
    if annotator is None:
        writer.set_labels(digest, labels)
        return
    assigned = None if labels is None else tuple(sorted(set(labels)))
    current = writer.annotations[digest]
    votes = current.votes
    before = votes.pop(annotator, None)
    vote = None if assigned is None else json.dumps(assigned, ensure_ascii=False)
    writer.set_decision(digest, VOTE + annotator, vote)
    is_ours = current.labels == before and current.labels not in votes.values()
    if current.labels is None or is_ours:
        writer.set_labels(digest, assigned)
