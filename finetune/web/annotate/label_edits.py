"""Edits of labels: rename, merge, delete, order, pin and color."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.photos.catalog.annotations import AnnotationWriter, LabelStyle
from finetune.web.annotate.actions import BadRequestError, read_label
from finetune.web.annotate.descriptions import FOLDER_LABEL, LABEL_EDITS

MAX_LABELS = 10_000

_FIELDS: Mapping[str, tuple[str, ...]] = {
    "rename": ("label", "to"),
    "delete": ("label",),
    "pin": ("label", "pinned"),
    "color": ("label", "hue"),
    "order": ("order",),
}
"""Kinds of edits, with the fields of their requests besides ``kind``."""


@dataclass(frozen=True, kw_only=True)
class LabelEdit:
    """Validated edit.

    Attributes:
        kind: Kind of edit.
        label: The label; None for `order`.
        to: For `rename`: the new name. A name that another label has merges both.
        pinned: For `pin`.
        hue: For `color`: degrees from 0 to 359; None chooses the color of the place.
        order: For `order`: all labels, in their new order.
    """

    kind: str
    label: str | None = None
    to: str | None = None
    pinned: bool = False
    hue: int | None = None
    order: tuple[str, ...] = ()

    @property
    def changes_photos(self) -> bool:
        """Whether photos get other labels."""
        return self.kind in {"rename", "delete"}

    @property
    def description(self) -> str:
        """Description as shown after the edit and by undo."""
        kind = "unpin" if self.kind == "pin" and not self.pinned else self.kind
        return LABEL_EDITS[kind].format(label=repr(self.label), to=repr(self.to))


def read_label_edit(body: object) -> LabelEdit:
    """Returns the edit of a JSON request.

    Raises:
        BadRequestError: The request is invalid.
    """
    if not isinstance(body, dict):
        raise BadRequestError("The request must be a JSON object.")
    kind = body.get("kind")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise BadRequestError("'kind' is not an edit of labels.")
    if set(body) != {"kind", *_FIELDS[kind]}:
        raise BadRequestError(f"The edit {kind} has the keys {', '.join(_FIELDS[kind])}.")
    if kind == "order":
        order = body["order"]
        if not isinstance(order, list) or not 1 <= len(order) <= MAX_LABELS:
            raise BadRequestError("'order' must be a list of labels.")
        return LabelEdit(kind=kind, order=tuple(dict.fromkeys(map(read_label, order))))
    edit = LabelEdit(kind=kind, label=read_label(body["label"]))
    if kind == "rename":
        return dataclasses.replace(edit, to=read_label(body["to"]))
    if kind == "pin":
        if not isinstance(body["pinned"], bool):
            raise BadRequestError("'pinned' must be true or false.")
        return dataclasses.replace(edit, pinned=body["pinned"])
    if kind == "color":
        hue = body["hue"]
        if hue is not None and (type(hue) is not int or not 0 <= hue < 360):
            raise BadRequestError("'hue' must be null or an integer from 0 to 359.")
        return dataclasses.replace(edit, hue=hue)
    return edit


def write_label_edit(
    writer: AnnotationWriter,
    edit: LabelEdit,
    folder_labels: Mapping[str, str | None],
    labels: Sequence[str],
    styles: Mapping[str, LabelStyle],
) -> None:
    """Writes an edit to the catalog.

    Args:
        writer: The catalog's writer, for all photos with the label.
        edit: The edit.
        folder_labels: Label from the folder of each of these photos, by digest.
        labels: All labels, in display order.
        styles: Display of the labels that have one.

    Raises:
        BadRequestError: A folder has the name of the label to delete.
    """
    label = edit.label or ""
    style = styles.get(label, LabelStyle())
    match edit.kind:
        case "rename" | "delete":
            if edit.kind == "delete" and label in folder_labels.values():
                raise BadRequestError(FOLDER_LABEL.format(label=repr(label)))
            for digest, folder in folder_labels.items():
                if writer.annotations[digest].labels is None and folder == label:
                    writer.set_labels(digest, [edit.to or ""])
                writer.replace_label(digest, label, edit.to)
            if edit.to != label:
                writer.set_style(label, LabelStyle())
                if edit.to is not None and edit.to not in labels:
                    # The new name takes the old one's place, and with it its key.
                    position = style.position
                    if position is None and label in labels:
                        for place, name in enumerate(labels):
                            writer.set_style(
                                edit.to if name == label else name,
                                dataclasses.replace(styles.get(name, LabelStyle()), position=place),
                            )
                    else:
                        writer.set_style(edit.to, style)
        case "pin":
            writer.set_style(label, dataclasses.replace(style, pinned=edit.pinned))
        case "color":
            writer.set_style(label, dataclasses.replace(style, hue=edit.hue))
        case _:
            for place, name in enumerate(edit.order):
                before = styles.get(name, LabelStyle())
                writer.set_style(name, dataclasses.replace(before, position=place))
