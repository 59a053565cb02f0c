"""Ready train, validation and test folders, and what a path below the root says of its photo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from finetune.photos.collection import Part
from finetune.photos.labels import label_of_folder

_NAMES: Mapping[str, Part] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


def find_parts(paths: Iterable[str]) -> dict[str, Part]:
    """Returns the part that each folder directly under the root stands for; empty for none.

    They count as parts only where every folder of photos is one of them, training is among them
    beside another one, and labels lie below; so a collection of trains and buses has no parts.

    Args:
        paths: Paths of photos below the root, with ``/``.
    """
    parts: dict[str, Part] = {}
    labelled = False
    for path in paths:
        first, _, rest = path.partition("/")
        if not rest:
            continue
        part = _NAMES.get(first.casefold())
        if part is None:
            return {}
        parts[first] = part
        labelled = labelled or "/" in rest
    complete = "train" in parts.values() and len(set(parts.values())) > 1
    return parts if complete and labelled else {}


def place_of(path: str, parts: Mapping[str, Part]) -> tuple[str | None, Part | None]:
    """Returns the folder's label and the part of a photo at a path below the root."""
    folder = path.rpartition("/")[0]
    if not parts:
        return label_of_folder(folder), None
    first, _, rest = folder.partition("/")
    return label_of_folder(rest), parts.get(first)
