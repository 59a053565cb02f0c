"""From what a person names to the photos that are meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.errors import CollectionError
from finetune.photos.walk import find_photos


def photos_of(sources: Sequence[Path]) -> list[Path]:
    """Returns every photo that is meant, in the order given: a file is itself, a folder its photos.

    A file that is missing stays in the list, so that it is answered with its reason in its row.

    Raises:
        CollectionError: A folder holds no photos, or cannot be listed.
    """
    photos: list[Path] = []
    for source in sources:
        if not source.is_dir():
            photos.append(source)
            continue
        try:
            found = [source / file.path for file in find_photos(source).files]
        except OSError as error:
            raise CollectionError(
                f"The folder {source} cannot be listed: {(error.strerror or 'error').lower()}."
            ) from error
        if not found:
            raise CollectionError(f"There are no photos in {source}.")
        photos.extend(found)
    return photos
