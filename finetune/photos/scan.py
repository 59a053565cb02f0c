"""Scan of a folder: reads new and changed files, and takes the others from the catalog."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from finetune.config import Fit
from finetune.errors import CollectionError
from finetune.photos.analyze import (
    ANALYSIS_VERSION,
    Analysis,
    NeededOutput,
    ResizeSettings,
    Task,
    reader_version,
)
from finetune.photos.catalog.catalog import Catalog, open_catalog
from finetune.photos.catalog.shards import in_shard, merge_shards, open_shard
from finetune.photos.collection import Collection, FileMetadata, Photo, PhotoMetadata, Problem
from finetune.photos.crops import Crop
from finetune.photos.decode.photo_names import is_photo_name
from finetune.photos.decode.pool import analyze_all
from finetune.photos.members import is_shard_name, photos_in
from finetune.processes import Share

_COMMIT_SECONDS = 1.0
_MAX_CANDIDATES = 16


class PixelSink(Protocol):
    """Sink of the images made while photos are open anyway: the cache of decoded pixels.

    Attributes:
        size: Side of the images in pixels.
        fit: Method to make photos square: crop, pad or squash.
        interpolation: Name of the resampling filter.
    """

    size: int
    fit: Fit
    interpolation: str

    def missing(self, digest: str, crop: Crop | None) -> bool:
        """Returns whether the sink lacks a photo's image."""
        ...

    def put(self, digest: str, crop: Crop | None, image: NDArray[np.uint8]) -> None:
        """Stores an image ``(size, size, 3) uint8``; called from the scanning thread."""
        ...


def scan(
    root: Path,
    *,
    catalog: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    sink: PixelSink | None = None,
) -> Collection:
    """Returns the photos in a folder with their entries in its catalog.

    Only files that are new or changed (by path, size and time) are read, each once. A bad photo is
    a `Problem`; files that were moved or renamed keep their annotations. After an interrupt, all
    that was read is kept.

    Args:
        root: A folder with one sub-folder of photos for each label, at any depth.
        catalog: Place of the catalog; None means ``.finetune`` in `root`, see `open_catalog`.
        workers: Reader processes; None means one per usable core.
        progress: Called as ``progress(done, total)`` for new files.
        sink: Stores the images of photos that it lacks.

    Raises:
        CollectionError: There is no such folder, it cannot be read, or it has no readable photo.
        CatalogError: The catalog cannot be used.
    """
    root = Path(root)
    found = require_photos(root, advice=_EXPECTED)
    with open_catalog(root, catalog) as opened:
        update(opened, root, found, workers=workers, progress=progress, sink=sink)
        collection = opened.collection(root)
    return _checked(collection, found)


def update(
    catalog: Catalog,
    root: Path,
    found: Found,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    sink: PixelSink | None = None,
    whole: Catalog | None = None,
) -> None:
    """Updates a catalog from the files found; arguments are as in `scan`.

    Files in `whole`, the collection's catalog where `catalog` is that of a shard, are not read.
    """
    merged = merge_shards(catalog) if whole is None else {}
    preprocessing = None
    if sink is not None:
        preprocessing = ResizeSettings(
            size=sink.size, fit=sink.fit, interpolation=sink.interpolation
        )
    known = catalog.files() if whole is None else whole.files() | catalog.files()
    catalogs = [catalog] if whole is None else [catalog, whole]
    planner = _Planner(catalogs, known, merged, sink)
    catalog.set_present(file.path for file in found.files if file.path in known)
    files = planner.tasks(root, found.files)
    writer = _Writer(catalog)
    if progress is not None:
        progress(0, len(files))
    results = analyze_all(list(files), preprocessing, workers=workers)
    try:
        for done, (task, analysis) in enumerate(results, start=1):
            if sink is not None and analysis.image is not None and analysis.digest is not None:
                sink.put(analysis.digest, analysis.crop, analysis.image)
            writer.add(files[task], analysis)
            if progress is not None:
                progress(done, len(files))
    finally:
        results.close()
        writer.flush()


def scan_shard(
    root: Path,
    share: Share,
    *,
    catalog: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Reads a share of the files in a folder, for the next `scan` to take into its catalog.

    Any number of processes and machines may read shards of one folder at the same time. An
    interrupted shard goes on where it was.

    Args:
        root: As in `scan`.
        share: The share.
        catalog: As in `scan`.
        workers: As in `scan`.
        progress: As in `scan`.

    Returns:
        Number of the share's files, and those of them that cannot be opened.

    Raises:
        CollectionError: As `scan`.
        CatalogError: As `scan`, or another process scans the same shard.
    """
    found = require_photos(Path(root), advice=_EXPECTED)
    found.files = [file for file in found.files if in_shard(file.path, share)]
    with open_catalog(root, catalog) as whole, open_shard(whole.path, share) as shard:
        update(shard, root, found, workers=workers, progress=progress, whole=whole)
        known = whole.files() | shard.files()
    bad = sum(known[file.path].status != "ok" for file in found.files)
    return len(found.files), bad


class _Planner:
    """Selects the files to read, and the output needed of each."""

    def __init__(
        self,
        catalogs: Sequence[Catalog],
        known: Mapping[str, FileMetadata],
        written_ns: Mapping[str, int],
        sink: PixelSink | None,
    ) -> None:
        self._known = known
        self._written_ns_of = written_ns
        self._analyzed = {
            digest for catalog in catalogs for digest in catalog.analyzed(ANALYSIS_VERSION)
        }
        self._crops = catalogs[0].crops() if sink is not None else {}
        self._reader = reader_version()
        self._sink = sink
        self._written_ns = min(catalog.path.stat().st_mtime_ns for catalog in catalogs)

    def tasks(self, root: Path, files: Sequence[FoundFile]) -> dict[Task, FoundFile]:
        """Returns a task for each file that must be read."""
        gone = self._gone(files)
        needed_before: set[str] = set()
        tasks = {}
        for file in files:
            before = self._known.get(file.path)
            if before is not None and self._unchanged(file, before):
                digest = before.digest
                if before.status != "ok" or digest is None or digest in needed_before:
                    continue
                needed = self._needed_output(digest)
                if not needed.needs_image:
                    continue
                needed_before.add(digest)
                candidates = {digest: needed}
            else:
                candidates = self._candidates(file, before, gone)
            tasks[Task(path=f"{root}/{file.path}", known=candidates)] = file
        return tasks

    def _unchanged(self, file: FoundFile, before: FileMetadata) -> bool:
        if (before.size, before.mtime_ns) != (file.size, file.mtime_ns):
            return False
        # A camera uses its names again, and a copy keeps size and time: what came into the folder
        # since the catalog was written is compared by content.
        if file.ctime_ns > self._written_ns_of.get(file.path, self._written_ns):
            return False
        if before.status == "ok":
            return before.digest in self._analyzed
        return before.status == "bad" and before.reader == self._reader

    def _gone(self, files: Sequence[FoundFile]) -> dict[int, list[FileMetadata]]:
        """Returns the files that are no longer at their paths, by size."""
        here = {file.path for file in files}
        gone = defaultdict(list)
        for path, metadata in self._known.items():
            if path not in here and metadata.digest in self._analyzed:
                gone[metadata.size].append(metadata)
        return gone

    def _candidates(
        self,
        file: FoundFile,
        before: FileMetadata | None,
        gone: Mapping[int, Sequence[FileMetadata]],
    ) -> dict[str, NeededOutput]:
        name = file.path.rpartition("/")[2]
        same_size = sorted(
            gone.get(file.size, ()), key=lambda metadata: metadata.path.rpartition("/")[2] != name
        )
        digests = [metadata.digest for metadata in same_size[:_MAX_CANDIDATES]]
        if before is not None and before.digest in self._analyzed:
            digests.append(before.digest)  # a file that was only touched
        return {digest: self._needed_output(digest) for digest in digests if digest is not None}

    def _needed_output(self, digest: str) -> NeededOutput:
        crop = self._crops.get(digest)
        needs_image = self._sink is not None and self._sink.missing(digest, crop)
        return NeededOutput(needs_image=needs_image, crop=crop)


class _Writer:
    """Writes results to the catalog once a second: little is lost, few writes are made."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._reader = reader_version()
        self._files: list[FileMetadata] = []
        self._photos: list[PhotoMetadata] = []
        self._last = time.monotonic()

    def add(self, file: FoundFile, analysis: Analysis) -> None:
        """Adds a result."""
        self._files.append(
            FileMetadata(
                path=file.path,
                size=file.size,
                mtime_ns=file.mtime_ns,
                digest=analysis.digest,
                status=analysis.status,
                reason=analysis.reason,
                reader=self._reader,
            )
        )
        if analysis.metadata is not None:
            self._photos.append(analysis.metadata)
        if time.monotonic() - self._last > _COMMIT_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes the collected results."""
        if self._files:
            self._catalog.record(self._files, self._photos)
            self._files, self._photos = [], []
        self._last = time.monotonic()


_EXPECTED = "Give a folder with one sub-folder of photos for each label."


def _checked(collection: Collection, found: Found) -> Collection:
    problems = sorted((*collection.problems, *found.problems), key=lambda problem: problem.path)
    by_path = {photo.path: photo for photo in collection.photos} if found.other_names else {}

    def is_counted(photo: Photo) -> bool:
        own = by_path.get(found.other_names.get(photo.path, ""))
        return own is None or (own.labels, own.part) != (photo.labels, photo.part)

    collection = dataclasses.replace(
        collection,
        photos=tuple(filter(is_counted, collection.photos)),
        problems=tuple(problems),
        other_names=found.other_names,
        other_kinds=dict(found.other_kinds),
    )
    if not collection.photos and problems:
        first = problems[0]
        raise CollectionError(
            f"None of the {len(problems):,} photos in {collection.root} can be opened; the first "
            f"is {first.path}: {first.reason}. Replace them by photos that other programs open."
        )
    return collection


_NOT_PHOTOS = frozenset(
    ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found")
)
"""System folders of copies, thumbnails and deleted files, in lower case."""

_CAMERA_FILE = re.compile(
    r".+\.(cr[23]|nef|nrw|arw|sr[2fw]|dng|or[fi]|rw2|ra[fw]|pef|x3f|3fr|iiq|erf|kdc"
    r"|mp4|mov|avi|m2?ts|jxl|psd|xcf|svg)",
    re.IGNORECASE,
)
"""Suffixes of raw photos, videos and pictures of editors, which are not read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundFile:
    """File with the suffix of a photo.

    Attributes:
        path: Path below the root, with ``/``, spelled as on disk.
        size: Bytes.
        mtime_ns: Time of the last change, in nanoseconds.
        ctime_ns: Time since which the path leads to these bytes at the latest; 0 if unknown.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int = 0


@dataclass(kw_only=True, slots=True)
class Found:
    """Result of walking a folder: files, and entries that could not be read.

    Attributes:
        files: Sorted by path.
        other_names: As in `finetune.photos.collection.Collection`.
        other_kinds: Number of camera files of kinds that are not read (raw photos, videos), by
            suffix.
    """

    files: list[FoundFile] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    other_names: dict[str, str] = field(default_factory=dict)
    other_kinds: Counter[str] = field(default_factory=Counter)


def require_photos(root: Path, *, advice: str, limit: int | None = None) -> Found:
    """Returns the result of `find_photos`, with at least one photo; errors end with `advice`.

    Raises:
        CollectionError: There is no such folder, it cannot be read, or no photo is in it.
    """
    try:
        found = find_photos(root, limit=limit)
    except FileNotFoundError as error:
        raise CollectionError(f"There is no folder {root}. {advice}") from error
    except NotADirectoryError as error:
        raise CollectionError(f"{root} is a file, not a folder. {advice}") from error
    except OSError as error:
        reason = (error.strerror or "error").lower()
        raise CollectionError(
            f"The folder {root} cannot be read: {reason}. "
            "Change its permissions, or copy the photos elsewhere."
        ) from error
    if not found.files and not found.problems:
        raise CollectionError(f"There are no photos in {root}. {advice}")
    return found


def find_photos(root: Path, *, any_name: bool = False, limit: int | None = None) -> Found:
    """Returns the photos in a folder and below, sorted by path.

    Where there is none, the photos inside of shards are returned; see `finetune.photos.members`.
    Hidden files and folders are skipped, and so are the folders of operating systems. Symbolic
    links are followed, each folder being entered once: by its own name where it lies below the
    root, else by the first link to it.

    Args:
        root: The folder.
        any_name: Also return photos whose names are not valid UTF-8; else they are problems.
        limit: Number of photos after which only the first of each further folder is returned.

    Raises:
        OSError: The root itself cannot be listed.
    """
    walk = _Walk(str(root), any_name=any_name, limit=limit)
    walk.folder(str(root), "")
    while walk.links:
        folder, path = walk.links.popleft()
        try:
            identity = _identity(os.stat(folder))  # noqa: PTH116 - strings are much faster here
        except OSError as error:
            walk.unlisted(path, error)
            continue
        if identity not in walk.entered:
            walk.entered.add(identity)
            walk.folder(folder, path + "/", in_link=True)
    found = walk.found
    if not found.files:
        # Shards beside photos may be backups of these.
        for shard in walk.shards:
            _add_members(found, root, shard)
    found.files.sort(key=lambda file: file.path)
    found.problems.sort(key=lambda problem: problem.path)
    found.other_names.update(walk.other_names())
    return found


def _add_members(found: Found, root: Path, shard: FoundFile) -> None:
    """Adds the photos in a shard; see `finetune.photos.members`."""
    try:
        photos = photos_in(root / shard.path)
    except (CollectionError, OSError) as error:
        found.problems.append(Problem(path=shard.path, reason=str(error)))
        return
    found.files += [
        FoundFile(
            path=f"{shard.path}/{name}",
            size=size,
            mtime_ns=shard.mtime_ns,
            ctime_ns=shard.ctime_ns,
        )
        for name, size in photos.items()
    ]


def found_file(root: Path, path: str) -> FoundFile | None:
    """Returns a file at a path below a folder, or None if there is none."""
    try:
        status = (root / path).stat()
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return FoundFile(
        path=path,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )


class _Walk:
    """Walk of a folder; links to folders come last, so that a folder's own name is used."""

    def __init__(self, root: str, *, any_name: bool, limit: int | None = None) -> None:
        self.found = Found()
        self.entered = {_identity(os.stat(root))}  # noqa: PTH116 - strings are much faster here
        self._root = root
        self.links: deque[tuple[str, str]] = deque()
        self.shards: list[FoundFile] = []
        self._any_name = any_name
        self._limit = limit
        self._in_link = False
        self._names: defaultdict[tuple[int, int], list[tuple[bool, str]]] = defaultdict(list)

    def folder(self, folder: str, prefix: str, *, in_link: bool = False) -> None:
        """Notes the files in a folder and below."""
        self._in_link = in_link
        waiting = [(folder, prefix)]
        while waiting:
            folder, prefix = waiting.pop()
            try:
                with os.scandir(folder) as entries:
                    listed = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                if not prefix:
                    raise
                self.unlisted(prefix.rstrip("/"), error)
                continue
            first = len(self.found.files)
            for entry in listed:
                files = len(self.found.files)
                is_enough = self._limit is not None and files >= max(self._limit, first + 1)
                if is_enough and not entry.is_dir(follow_symlinks=False):
                    continue
                if entry.name.startswith(".") or entry.name.casefold() in _NOT_PHOTOS:
                    continue
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    try:
                        self.entered.add(_identity(os.stat(entry.path)))  # noqa: PTH116
                    except OSError as error:
                        self.unlisted(path, error)
                        continue
                    waiting.append((entry.path, path + "/"))
                elif entry.is_symlink() and _is_folder(entry):
                    self.links.append((entry.path, path))
                elif is_photo_name(entry.name):
                    self._file(entry, path)
                elif is_shard_name(entry.name) and (shard := found_file(Path(self._root), path)):
                    self.shards.append(shard)
                elif kind := _CAMERA_FILE.fullmatch(entry.name):
                    self.found.other_kinds[kind[1].lower()] += 1

    def unlisted(self, path: str, error: OSError) -> None:
        """Notes a folder that cannot be listed."""
        reason = f"this folder cannot be listed: {(error.strerror or 'error').lower()}"
        self._problem(path, reason)

    def other_names(self) -> Iterator[tuple[str, str]]:
        """Yields each further name of a file, with the name that counts: no link, and first."""
        if any(is_link for names in self._names.values() for is_link, _ in names):
            root = os.path.realpath(self._root)
            paths = {file.path for file in self.found.files}
            for names in self._names.values():
                if all(is_link for is_link, _ in names):
                    target = os.path.realpath(os.path.join(self._root, names[0][1]))  # noqa: PTH118
                    own = os.path.relpath(target, root).replace(os.sep, "/")
                    if own in paths:
                        names.append((False, own))
        for names in self._names.values():
            (_, own), *others = sorted(names)
            for _, path in others:
                yield path, own

    def _problem(self, path: str, reason: str) -> None:
        shown = path if self._any_name else os.fsencode(path).decode("utf-8", errors="replace")
        self.found.problems.append(Problem(path=shown, reason=reason))

    def _file(self, entry: os.DirEntry[str], path: str) -> None:
        try:
            path.encode()
        except UnicodeEncodeError:
            if not self._any_name:
                self._problem(path, "the file's name is not valid UTF-8; rename it")
                return
        try:
            status = entry.stat()
        except OSError as error:
            broken = "a link to a file that is not there" if entry.is_symlink() else None
            self._problem(path, broken or (error.strerror or "cannot be read").lower())
            return
        if not stat.S_ISREG(status.st_mode):
            self._problem(path, "not a regular file")
            return
        self.found.files.append(
            FoundFile(
                path=path,
                size=status.st_size,
                mtime_ns=status.st_mtime_ns,
                ctime_ns=status.st_ctime_ns,
            )
        )
        is_link = entry.is_symlink()
        if is_link or status.st_nlink > 1 or self._in_link:
            known = status if status.st_ino else os.stat(entry.path)  # noqa: PTH116 - Windows
            self._names[_identity(known)].append((is_link, path))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
