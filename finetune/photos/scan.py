"""From a folder to a `Collection`: reads what is new or changed, remembers the rest."""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from finetune.config import Fit
from finetune.errors import CollectionError
from finetune.photos.analyze import (
    ANALYSIS_VERSION,
    Analysis,
    SquareSpec,
    Task,
    Wanted,
    reader_version,
)
from finetune.photos.catalog.catalog import Catalog, open_catalog
from finetune.photos.collection import Collection, FileMetadata, PhotoMetadata
from finetune.photos.crops import Crop
from finetune.photos.decode.pool import analyze_all
from finetune.photos.walk import Found, FoundFile, require_photos

_COMMIT_SECONDS = 1.0
_MOST_CANDIDATES = 16


class PixelSink(Protocol):
    """Where squares go while photos are open anyway: the cache of decoded pixels.

    Attributes:
        size: Side of the squares in pixels.
        fit: How photos become square.
        interpolation: How they are resampled.
    """

    size: int
    fit: Fit
    interpolation: str

    def missing(self, digest: str, crop: Crop | None) -> bool:
        """Returns whether a photo's square is wanted."""
        ...

    def put(self, digest: str, crop: Crop | None, square: NDArray[np.uint8]) -> None:
        """Takes a square ``(size, size, 3) uint8``; called from the thread that scans."""
        ...


def scan(
    root: Path,
    *,
    catalog: Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    sink: PixelSink | None = None,
) -> Collection:
    """Returns the photos in a folder, with all that its catalog knows of them.

    Only files that are new or changed (by path, size and time) are read, each once. A bad photo is
    a `Problem`; files that were moved or renamed keep what was said of them. When interrupted, what
    was read so far is kept.

    Args:
        root: A folder with one sub-folder of photos for each label, at any depth.
        catalog: Where the catalog is kept; None means ``.finetune`` in `root`, see `open_catalog`.
        workers: Processes that read; None means one a usable core.
        progress: Called with how many of the new files are done, and of how many.
        sink: Takes the squares of photos that it misses.

    Raises:
        CollectionError: There is no such folder, it cannot be read, or it holds no photo that can.
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
) -> None:
    """Brings a catalog up to date with the files that were found; arguments are as in `scan`."""
    preprocessing = None
    if sink is not None:
        preprocessing = SquareSpec(size=sink.size, fit=sink.fit, interpolation=sink.interpolation)
    known = catalog.files()
    catalog.set_present(file.path for file in found.files if file.path in known)
    files = _Planner(catalog, known, sink).tasks(root, found.files)
    writer = _Writer(catalog)
    if progress is not None:
        progress(0, len(files))
    results = analyze_all(list(files), preprocessing, workers=workers)
    try:
        for done, (task, analysis) in enumerate(results, start=1):
            if sink is not None and analysis.square is not None and analysis.digest is not None:
                sink.put(analysis.digest, analysis.crop, analysis.square)
            writer.add(files[task], analysis)
            if progress is not None:
                progress(done, len(files))
    finally:
        results.close()
        writer.flush()


class _Planner:
    """Decides which files must be read, and what is wanted of each."""

    def __init__(
        self, catalog: Catalog, known: Mapping[str, FileMetadata], sink: PixelSink | None
    ) -> None:
        self._known = known
        self._analyzed = catalog.analyzed(ANALYSIS_VERSION)
        self._crops = catalog.crops() if sink is not None else {}
        self._reader = reader_version()
        self._sink = sink

    def tasks(self, root: Path, files: Sequence[FoundFile]) -> dict[Task, FoundFile]:
        """Returns a task for each file that must be read."""
        gone = self._gone(files)
        wanted_before: set[str] = set()
        tasks = {}
        for file in files:
            before = self._known.get(file.path)
            if before is not None and self._unchanged(file, before):
                digest = before.digest
                if before.status != "ok" or digest is None or digest in wanted_before:
                    continue
                wanted = self._wanted(digest)
                if not wanted.square:
                    continue
                wanted_before.add(digest)
                candidates = {digest: wanted}
            else:
                candidates = self._candidates(file, before, gone)
            tasks[Task(path=f"{root}/{file.path}", known=candidates)] = file
        return tasks

    def _unchanged(self, file: FoundFile, before: FileMetadata) -> bool:
        if (before.size, before.mtime_ns) != (file.size, file.mtime_ns):
            return False
        if before.status == "ok":
            return before.digest in self._analyzed
        return before.status == "bad" and before.reader == self._reader

    def _gone(self, files: Sequence[FoundFile]) -> dict[int, list[FileMetadata]]:
        """Returns the files that have gone from where they were, by size."""
        here = {file.path for file in files}
        gone = defaultdict(list)
        for path, facts in self._known.items():
            if path not in here and facts.digest in self._analyzed:
                gone[facts.size].append(facts)
        return gone

    def _candidates(
        self,
        file: FoundFile,
        before: FileMetadata | None,
        gone: Mapping[int, Sequence[FileMetadata]],
    ) -> dict[str, Wanted]:
        name = file.path.rpartition("/")[2]
        same_size = sorted(
            gone.get(file.size, ()), key=lambda facts: facts.path.rpartition("/")[2] != name
        )
        digests = [facts.digest for facts in same_size[:_MOST_CANDIDATES]]
        if before is not None and before.digest in self._analyzed:
            digests.append(before.digest)  # a file that was only touched
        return {digest: self._wanted(digest) for digest in digests if digest is not None}

    def _wanted(self, digest: str) -> Wanted:
        crop = self._crops.get(digest)
        square = self._sink is not None and self._sink.missing(digest, crop)
        return Wanted(square=square, crop=crop)


class _Writer:
    """Writes results to the catalog once a second: little is lost, few writes are made."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._reader = reader_version()
        self._files: list[FileMetadata] = []
        self._photos: list[PhotoMetadata] = []
        self._last = time.monotonic()

    def add(self, file: FoundFile, analysis: Analysis) -> None:
        """Takes a result."""
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
        if analysis.facts is not None:
            self._photos.append(analysis.facts)
        if time.monotonic() - self._last > _COMMIT_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what has gathered."""
        if self._files:
            self._catalog.record(self._files, self._photos)
            self._files, self._photos = [], []
        self._last = time.monotonic()


_EXPECTED = "Give a folder with one sub-folder of photos for each label."


def _checked(collection: Collection, found: Found) -> Collection:
    problems = sorted((*collection.problems, *found.problems), key=lambda problem: problem.path)
    collection = dataclasses.replace(collection, problems=tuple(problems))
    if not collection.photos and problems:
        first = problems[0]
        raise CollectionError(
            f"None of the {len(problems):,} photos in {collection.root} can be opened; the first "
            f"is {first.path}: {first.reason}. Replace them by photos that other programs open."
        )
    return collection
