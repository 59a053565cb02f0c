"""The catalog: what is known of a collection's photos, and what a person said about them.

Facts belong to a photo's content (its digest), so that a moved, renamed or copied file keeps them;
a file's row says only which content lies at which path. A person's word beats a folder's name and
a machine's guess, is on disk before the call returns, and can be undone.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from finetune.errors import CatalogError
from finetune.files import HIDDEN_FOLDER, user_cache_folder
from finetune.photos.catalog import store, undo_log
from finetune.photos.catalog.annotations import Words
from finetune.photos.collection import Collection, Photo, Problem
from finetune.photos.labels import find_parts, place_of
from finetune.photos.metadata import FileFacts, PhotoFacts
from finetune.photos.quality import Quality

logger = logging.getLogger(__name__)


class Catalog(Words):
    """An open catalog: what scans found and what was said.

    Args:
        path: The SQLite file; made when missing.

    Raises:
        CatalogError: The file is no catalog, is damaged, is in use, or has a newer schema.
        OSError: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> with Catalog(Path(tempfile.mkdtemp()) / "catalog.sqlite3") as catalog:
        ...     catalog.set_labels(["00ff"], ["heron"])
        ...     catalog.undo()
        "label 1 photo 'heron'"
    """

    def files(self) -> dict[str, FileFacts]:
        """Returns what the last scans found, by path; files that have since gone included."""
        columns = ", ".join(FileFacts.__slots__)
        return {
            row[0]: FileFacts(**dict(zip(FileFacts.__slots__, row, strict=True)))
            for row in self._all(f"SELECT {columns} FROM file")
        }

    def analyzed(self, analysis: int) -> set[str]:
        """Returns the digests that have been measured by this version of the analysis."""
        rows = self._all("SELECT digest FROM photo WHERE analysis = ?", (analysis,))
        return {row[0] for row in rows}

    def record(self, files: Sequence[FileFacts], photos: Sequence[PhotoFacts]) -> None:
        """Writes what a scan found, in one transaction."""
        said_at = undo_log.now()
        with self._write() as connection:
            connection.executemany(
                f"INSERT OR REPLACE INTO photo ({', '.join(PhotoFacts.__slots__)}) "
                f"VALUES ({', '.join('?' * len(PhotoFacts.__slots__))})",
                [tuple(getattr(photo, name) for name in PhotoFacts.__slots__) for photo in photos],
            )
            connection.executemany(
                f"INSERT INTO file ({', '.join(FileFacts.__slots__)}, first_seen) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET "
                "first_seen = CASE WHEN digest IS excluded.digest AND present = 1 "
                "THEN first_seen ELSE excluded.first_seen END, "
                "size = excluded.size, mtime_ns = excluded.mtime_ns, digest = excluded.digest, "
                "status = excluded.status, reason = excluded.reason, reader = excluded.reader, "
                "present = 1",
                [
                    (*(getattr(file, name) for name in FileFacts.__slots__), said_at)
                    for file in files
                ],
            )

    def set_present(self, paths: Iterable[str]) -> None:
        """Notes which files are there now; the others keep their rows, should they come back."""
        with self._write() as connection:
            before = {row[0] for row in connection.execute("SELECT path FROM file WHERE present")}
            now = set(paths)
            connection.executemany(
                "UPDATE file SET present = 0 WHERE path = ?", [(path,) for path in before - now]
            )
            connection.executemany(
                "UPDATE file SET present = 1 WHERE path = ?", [(path,) for path in now - before]
            )

    def collection(self, root: Path, *, with_excluded: bool = False) -> Collection:
        """Returns the collection that the last scan found, with all that was said about it.

        Args:
            root: The folder that the catalog's paths are relative to.
            with_excluded: Keep photos that a person decided to leave out (`decide` ``"exclude"``).
        """
        with self._lock, store.translated(self.path):
            # One transaction, so that photos and words are of the same moment.
            self._connection.execute("BEGIN")
            try:
                bad = self._all(
                    "SELECT path, reason FROM file WHERE present AND status != 'ok' ORDER BY path"
                )
                rows = self._all(
                    "SELECT path, digest, size, width, height, taken_at, camera, hashes, "
                    "brightness, contrast, sharpness FROM file JOIN photo USING (digest) "
                    "WHERE present AND status = 'ok' ORDER BY path"
                )
                said = self.labels_said()
                crops = self.crops()
                groups = self.groups()
                excluded = self.decisions("exclude") if not with_excluded else {}
            finally:
                self._connection.execute("COMMIT")
        parts = find_parts(row[0] for row in (*rows, *bad))
        known: dict[tuple[str, ...], tuple[str, ...]] = {}
        photos = []
        for path, digest, size, width, height, taken_at, camera, hashes, *measured in rows:
            if digest in excluded:
                continue
            folder_label, part = place_of(path, parts)
            labels = said.get(digest, () if folder_label is None else (folder_label,))
            quality = None
            if measured[0] is not None:
                brightness, contrast, sharpness = measured
                quality = Quality(brightness=brightness, contrast=contrast, sharpness=sharpness)
            photos.append(
                Photo(
                    path=path,
                    digest=digest,
                    labels=known.setdefault(labels, labels),
                    part=part,
                    width=width,
                    height=height,
                    taken_at=taken_at,
                    camera=None if camera is None else sys.intern(camera),
                    crop=crops.get(digest),
                    group=groups.get(digest),
                    packed_hashes=hashes,
                    quality=quality,
                    file_bytes=size,
                    spoken=digest in said,
                )
            )
        return Collection(
            root=root,
            photos=tuple(photos),
            problems=tuple(
                Problem(path=path, reason=reason or "cannot be read") for path, reason in bad
            ),
        )


def open_catalog(root: Path, catalog: Path | None = None) -> Catalog:
    """Returns the catalog of the collection in a folder, made when there is none.

    Args:
        root: The collection's folder.
        catalog: The catalog's file, or a folder for it; None means ``.finetune`` in `root`, or this
            user's cache folder, said with ``logging.warning``, where `root` cannot be written.

    Raises:
        CatalogError: The file is no catalog, is damaged, is in use, has a newer schema, or its
            folder cannot be written.
    """
    if catalog is not None:
        path = catalog / "catalog.sqlite3" if catalog.is_dir() else catalog
        try:
            return Catalog(path)
        except OSError as error:
            raise CatalogError(
                f"Cannot write the catalog {path}: {error.strerror or error}. "
                "Choose another place with --catalog."
            ) from error
    path = root / HIDDEN_FOLDER / "catalog.sqlite3"
    try:
        return Catalog(path)
    except OSError as error:
        name = hashlib.blake2b(str(root.resolve()).encode("utf-8", "surrogateescape"))
        elsewhere = user_cache_folder() / "catalogs" / f"{name.hexdigest()[:32]}.sqlite3"
        logger.warning(
            "%s cannot be written (%s); its catalog is kept in %s instead. "
            "Choose another place with --catalog.",
            root,
            error.strerror or error,
            elsewhere,
        )
        try:
            _bring_along(path, elsewhere)
            return Catalog(elsewhere)
        except OSError as second:
            raise CatalogError(
                f"Cannot write a catalog for {root}, neither there nor as {elsewhere}: "
                f"{second.strerror or second}. Choose another place with --catalog."
            ) from second


def _bring_along(path: Path, elsewhere: Path) -> None:
    """Starts a catalog elsewhere from the one in a folder that became read-only."""
    if not elsewhere.exists() and path.is_file():
        elsewhere.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, elsewhere)
