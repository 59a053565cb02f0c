"""Catalog of a collection: measurements, annotations and undo, in one SQLite file.

Measurements and annotations belong to a photo's content (its digest), so that a moved, renamed or
copied file keeps them. An annotation by a person takes precedence over a folder's name and a
model's proposal.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from finetune.errors import CatalogError
from finetune.files import HIDDEN_FOLDER, user_cache_folder
from finetune.formatting import count
from finetune.photos.catalog import undo_log
from finetune.photos.catalog.annotations import (
    EXCLUDE,
    NO_ANNOTATIONS,
    Annotations,
    AnnotationWriter,
    LabelStyle,
    Source,
    read_annotations,
    read_styles,
)
from finetune.photos.catalog.repair import back_up_daily
from finetune.photos.catalog.store import Store, damaged
from finetune.photos.catalog.undo_log import Action, Replayed, StaleError
from finetune.photos.collection import Collection, FileMetadata, Photo, PhotoMetadata, Problem
from finetune.photos.crops import Crop
from finetune.photos.labels import find_parts, nfc
from finetune.photos.quality import Quality

logger = logging.getLogger(__name__)

_QUERY_KEYS = 500


class Catalog:
    """Open catalog: scanned files and photos, and their annotations.

    Args:
        path: The SQLite file; created when missing.

    Raises:
        CatalogError: The file is no catalog, is damaged, is in use, or has a newer schema.
        OSError: The folder cannot be written.

    Example:
        >>> import tempfile
        >>> with Catalog(Path(tempfile.mkdtemp()) / "catalog.sqlite3") as catalog:
        ...     catalog.set_labels(["00ff"], ["heron"])
        ...     catalog.undo().what
        "label 1 photo 'heron'"
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store = Store(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._store.close()

    @contextlib.contextmanager
    def writer(
        self,
        what: str,
        digests: Iterable[str],
        *,
        seen: Mapping[str, str] | None = None,
        annotator: str | None = None,
    ) -> Iterator[AnnotationWriter]:
        """Yields the writer of one undoable action, which is on disk when the block ends.

        Args:
            what: Description of the action, shown by undo.
            digests: All photos that the action touches.
            seen: `Annotations.version_for` the annotator of each photo as shown on a page, by
                digest.
            annotator: Name of the annotator, who alone undoes the action; None without one.

        Raises:
            StaleError: A photo was changed after the page showed it; nothing was written.
        """
        with self._store.write() as connection:
            recorder = undo_log.Recorder(connection)
            annotations = self.annotations(list(digests))
            if seen is not None:
                stale = [
                    digest
                    for digest, found in annotations.items()
                    if found.version_for(annotator) != seen[digest]
                ]
                if stale:
                    raise StaleError(stale)
            yield AnnotationWriter(recorder, annotations)
            recorder.commit(what, annotator)

    def set_labels(self, digests: Sequence[str], labels: Sequence[str]) -> None:
        """Replaces the labels of photos in one action; none means that no label fits."""
        names = sorted({nfc(label.strip()) for label in labels} - {""})
        shown = " + ".join(map(repr, names)) or "as none of the labels"
        photos = count(len(digests), "photo")
        with self.writer(f"label {photos} {shown}", digests) as writer:
            for digest in digests:
                writer.set_labels(digest, names)

    def propose_crops(self, crops: Mapping[str, Crop | None]) -> int:
        """Writes proposed crops (None: no crop) except over set ones; returns their number.

        Proposals are not journaled, so undo does not touch them.
        """
        with self._store.write() as connection:
            fixed = {digest for digest, source in self.crop_sources().items() if source == "person"}
            free = {digest: crop for digest, crop in crops.items() if digest not in fixed}
            connection.executemany("DELETE FROM crop WHERE digest = ?", [(d,) for d in free])
            connection.executemany(
                "INSERT INTO crop (digest, center_x, center_y, side, source, recorded_at) "
                "VALUES (?, ?, ?, ?, 'model', ?)",
                [
                    (digest, crop.center_x, crop.center_y, crop.side, undo_log.now())
                    for digest, crop in free.items()
                    if crop is not None
                ],
            )
        return len(free)

    def annotations(self, digests: Sequence[str] | None = None) -> dict[str, Annotations]:
        """Returns the annotations of these photos, or of all that have any, by digest."""
        return read_annotations(self._store, digests)

    def assigned_labels(self) -> dict[str, tuple[str, ...]]:
        """Returns the assigned labels by digest; empty if no label fits."""
        annotations = self.annotations().items()
        return {digest: found.labels for digest, found in annotations if found.labels is not None}

    def label_styles(self) -> dict[str, LabelStyle]:
        """Returns the display of the labels that have one."""
        return read_styles(self._store)

    def crops(self) -> dict[str, Crop]:
        """Returns the crop of every photo that has one, by digest."""
        rows = self._store.read("SELECT digest, center_x, center_y, side FROM crop")
        return {digest: Crop(center_x=x, center_y=y, side=side) for digest, x, y, side in rows}

    def crop_sources(self) -> dict[str, Source]:
        """Returns the source of each crop, by digest."""
        return dict(self._store.read("SELECT digest, source FROM crop"))

    def groups(self) -> dict[str, str]:
        """Returns the assigned groups by digest."""
        return dict(self._store.read("SELECT digest, name FROM membership"))

    def undo(self, number: int | None = None, *, annotator: str | None = None) -> Replayed | None:
        """Undoes an annotator's latest action and returns it, or None where there is none.

        Args:
            number: The action that must be the latest; None takes any.
            annotator: Name of the annotator; None: actions without one.

        Raises:
            StaleError: The latest action is another, or another annotator changed the same rows.
        """
        with self._store.write() as connection:
            return undo_log.replay(connection, backward=True, number=number, annotator=annotator)

    def redo(self, number: int | None = None, *, annotator: str | None = None) -> Replayed | None:
        """Redoes the action that was undone last; otherwise as `undo`."""
        with self._store.write() as connection:
            return undo_log.replay(connection, backward=False, number=number, annotator=annotator)

    def latest(self, annotator: str | None = None) -> tuple[int, int]:
        """Returns the numbers of an annotator's actions that undo and redo would replay, or 0."""
        with self._store.snapshot() as connection:
            return undo_log.latest(connection, annotator)

    def history(self, limit: int = 100, *, annotator: str | None = None) -> tuple[Action, ...]:
        """Returns an annotator's latest actions, newest first."""
        with self._store.snapshot() as connection:
            return undo_log.history(connection, limit, annotator)

    def changes(self) -> int:
        """Returns a number that differs once another connection has changed the catalog."""
        ((number,),) = self._store.read("PRAGMA data_version")
        return int(number)

    def files(self) -> dict[str, FileMetadata]:
        """Returns the scanned files by path, including those that no longer exist."""
        columns = ", ".join(FileMetadata.__slots__)
        return {
            row[0]: FileMetadata(**dict(zip(FileMetadata.__slots__, row, strict=True)))
            for row in self._store.read(f"SELECT {columns} FROM file")
        }

    def photos(self) -> list[PhotoMetadata]:
        """Returns the measurements of all photos."""
        columns = ", ".join(PhotoMetadata.__slots__)
        return [
            PhotoMetadata(**dict(zip(PhotoMetadata.__slots__, row, strict=True)))
            for row in self._store.read(f"SELECT {columns} FROM photo")
        ]

    def unlabeled(self, limit: int) -> list[str]:
        """Returns paths of the first photos that nobody has labeled or excluded."""
        rows = self._store.read(
            "SELECT path FROM file WHERE present AND status = 'ok' "
            "AND NOT EXISTS (SELECT 1 FROM label WHERE label.digest = file.digest) "
            "AND NOT EXISTS (SELECT 1 FROM decision WHERE decision.digest = file.digest) "
            "ORDER BY path LIMIT ?",
            [limit],
        )
        return [str(path) for (path,) in rows]

    def digests(self, paths: Sequence[str]) -> dict[str, str]:
        """Returns the digests of files that have been scanned, by path."""
        found: dict[str, str] = {}
        for start in range(0, len(paths), _QUERY_KEYS):
            some = paths[start : start + _QUERY_KEYS]
            rows = self._store.read(
                "SELECT path, digest FROM file WHERE digest IS NOT NULL AND path IN "
                f"({', '.join('?' * len(some))})",
                some,
            )
            found.update(rows)
        return found

    def analyzed(self, analysis: int) -> set[str]:
        """Returns the digests that have been measured by this version of the analysis."""
        rows = self._store.read("SELECT digest FROM photo WHERE analysis = ?", (analysis,))
        return {row[0] for row in rows}

    def record(self, files: Sequence[FileMetadata], photos: Sequence[PhotoMetadata]) -> None:
        """Writes the results of a scan in one transaction."""
        recorded_at = undo_log.now()
        with self._store.write() as connection:
            connection.executemany(
                f"INSERT OR REPLACE INTO photo ({', '.join(PhotoMetadata.__slots__)}) "
                f"VALUES ({', '.join('?' * len(PhotoMetadata.__slots__))})",
                [
                    tuple(getattr(photo, name) for name in PhotoMetadata.__slots__)
                    for photo in photos
                ],
            )
            connection.executemany(
                f"INSERT INTO file ({', '.join(FileMetadata.__slots__)}, first_seen) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET "
                "first_seen = CASE WHEN digest IS excluded.digest AND present = 1 "
                "THEN first_seen ELSE excluded.first_seen END, "
                "size = excluded.size, mtime_ns = excluded.mtime_ns, digest = excluded.digest, "
                "status = excluded.status, reason = excluded.reason, reader = excluded.reader, "
                "present = 1",
                [
                    (*(getattr(file, name) for name in FileMetadata.__slots__), recorded_at)
                    for file in files
                ],
            )

    def set_present(self, paths: Iterable[str]) -> None:
        """Marks the files that exist; the others keep their rows in case they return."""
        with self._store.write() as connection:
            before = {row[0] for row in connection.execute("SELECT path FROM file WHERE present")}
            now = set(paths)
            connection.executemany(
                "UPDATE file SET present = 0 WHERE path = ?", [(path,) for path in before - now]
            )
            connection.executemany(
                "UPDATE file SET present = 1 WHERE path = ?", [(path,) for path in now - before]
            )

    def collection(self, root: Path, *, with_excluded: bool = False) -> Collection:
        """Returns the collection that the last scan found, with its annotations.

        Args:
            root: The folder that the catalog's paths are relative to.
            with_excluded: Keep excluded photos.
        """
        with self._store.snapshot():
            bad = self._store.read(
                "SELECT path, reason FROM file WHERE present AND status != 'ok' ORDER BY path"
            )
            rows = self._store.read(
                "SELECT path, digest, size, width, height, taken_at, camera, hashes, "
                "value_range, brightness, contrast, sharpness FROM file JOIN photo USING (digest) "
                "WHERE present AND status = 'ok' ORDER BY path"
            )
            annotations = self.annotations()
        parts = find_parts(row[0] for row in (*rows, *bad))
        known: dict[tuple[str, ...], tuple[str, ...]] = {}
        photos = []
        for path, digest, size, width, height, taken_at, camera, hashes, values, *measured in rows:
            if not (isinstance(path, str) and isinstance(width, int) and isinstance(height, int)):
                raise damaged(self.path, f"the row of {path!r}")
            assigned = annotations.get(digest, NO_ANNOTATIONS)
            if EXCLUDE in assigned.decisions and not with_excluded:
                continue
            folder_label, part = parts.place(path)
            labels = assigned.labels
            if labels is None:
                labels = () if folder_label is None else (folder_label,)
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
                    crop=assigned.crop,
                    group=assigned.group,
                    packed_hashes=hashes,
                    quality=quality,
                    file_bytes=size,
                    confirmed=assigned.labels is not None,
                    value_range=values,
                )
            )
        return Collection(
            root=root,
            photos=tuple(photos),
            problems=tuple(
                Problem(path=path, reason=reason or "cannot be read") for path, reason in bad
            ),
        )


def catalog_path(root: Path, catalog: Path | None = None) -> Path:
    """Returns the path of a collection's catalog; `catalog` as in `open_catalog`."""
    if catalog is None:
        return root / HIDDEN_FOLDER / "catalog.sqlite3"
    return catalog / "catalog.sqlite3" if catalog.is_dir() else catalog


def _opened(path: Path) -> Catalog:
    if path.is_file():
        back_up_daily(path)
    return Catalog(path)


def open_catalog(root: Path, catalog: Path | None = None) -> Catalog:
    """Returns the catalog of the collection in a folder, created when there is none.

    Args:
        root: The collection's folder.
        catalog: The catalog's file, or a folder for it; None means ``.finetune`` in `root`, or this
            user's cache folder, with a logged warning, where `root` cannot be written.

    Raises:
        CatalogError: The file is no catalog, is damaged, is in use, has a newer schema, or its
            folder cannot be written.
    """
    path = catalog_path(root, catalog)
    if catalog is not None:
        try:
            return _opened(path)
        except OSError as error:
            raise CatalogError(
                f"Cannot write the catalog {path}: {error.strerror or error}. "
                "Choose another place with --catalog."
            ) from error
    try:
        return _opened(path)
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
            _copy_catalog(path, elsewhere)
            return _opened(elsewhere)
        except OSError as second:
            raise CatalogError(
                f"Cannot write a catalog for {root}, neither there nor as {elsewhere}: "
                f"{second.strerror or second}. Choose another place with --catalog."
            ) from second


def _copy_catalog(path: Path, elsewhere: Path) -> None:
    """Copies the catalog of a folder that became read-only."""
    if not elsewhere.exists() and path.is_file():
        elsewhere.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, elsewhere)
