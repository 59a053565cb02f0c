"""Export of a collection for other programs: folders, CSV, Neural Network Console."""

from __future__ import annotations

import csv
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from finetune.config import Fit
from finetune.errors import CollectionError, ConfigError, DecodeError, StorageError
from finetune.files import (
    numbered,
    safe_folders,
    safe_name,
    storage_errors,
    write_atomically,
    write_text,
)
from finetune.photos.collection import Collection, Part, Photo
from finetune.photos.crops import Crop, crop_and_resize, load_image
from finetune.photos.decode.decoder import decode_photo
from finetune.photos.labels import join_labels

Layout = Literal["folders", "csv", "nnc"]
Transfer = Literal["copy", "hardlink", "symlink"]

_FOLDER_OF: dict[Part, str] = {"train": "train", "validation": "val", "test": "test"}
_JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        layout: ``folders``: one folder a label, as ImageFolder reads it. ``csv``: photos and
            ``labels.csv`` (path, label, part). ``nnc``: photos and the CSV files of Neural Network
            Console.
        transfer: Copy the files, or link to them.
        crops: Write the crop of each photo that has one, and other files unchanged.
        size: Side in pixels of square JPEGs to write; None keeps the sizes.
        fit: Method to make a photo without a crop square.
    """

    layout: Layout = "folders"
    transfer: Transfer = "copy"
    crops: bool = False
    size: int | None = None
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        if self.reencodes and self.transfer != "copy":
            raise ConfigError(
                f"--{self.transfer} keeps the files as they are; leave out --crops and --size, or "
                "copy."
            )
        if self.size is not None and self.size < 1:
            raise ConfigError(f"--size {self.size} must be at least 1.")

    @property
    def reencodes(self) -> bool:
        """Whether photos are encoded again, so that they cannot be linked."""
        return self.crops or self.size is not None


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Result of an export.

    Attributes:
        files: Number of files; in folders, a photo with two labels is two files.
        tables: The CSV files.
        unlabeled: Number of photos left out because they have no label.
        problems: Photos that could not be opened, as (path, reason).
        renamed: Labels whose folder has another name, as (label, folder); also in ``folders.csv``.
        collisions: Photos that got another name, as (path, target): one of that name was there.
        contradictions: Copies of one file under different labels, as (path, path).
    """

    files: int
    tables: tuple[Path, ...]
    unlabeled: int
    problems: tuple[tuple[str, str], ...]
    renamed: tuple[tuple[str, str], ...] = ()
    collisions: tuple[tuple[str, str], ...] = ()
    contradictions: tuple[tuple[str, str], ...] = ()


def export_photos(
    collection: Collection,
    out: Path,
    options: ExportOptions,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Writes a collection's photos, with their labels and parts, to a new folder.

    An interrupted export leaves nothing behind.

    Args:
        collection: The photos.
        out: A new or empty folder outside of the collection.
        options: Layout, transfer and size.
        progress: Called as ``progress(done, total)``.

    Raises:
        CollectionError: `out` has files in it, or lies inside of the collection.
        StorageError: A file or link could not be written.
    """
    _check_empty(collection, out)
    existed = out.exists()
    try:
        return _export(collection, out, options, progress)
    except BaseException:
        for path in out.iterdir() if out.is_dir() else ():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        if out.is_dir() and not existed:
            out.rmdir()
        raise


def _export(
    collection: Collection,
    out: Path,
    options: ExportOptions,
    progress: Callable[[int, int], None] | None,
) -> Exported:
    photos = [p for p in collection.photos if p.labels or options.layout == "csv"]
    folders = safe_folders(collection.labels)
    written: list[tuple[Photo, str]] = []
    problems: list[tuple[str, str]] = []
    taken: set[str] = set()
    collisions: list[tuple[str, str]] = []
    files = 0
    for number, photo in enumerate(photos, start=1):
        wanted = list(_targets(photo, options, folders))
        targets = [_free(target, taken) for target in wanted]
        collisions += [
            (photo.path, free)
            for target, free in zip(wanted, targets, strict=True)
            if target != free
        ]
        try:
            for target in targets:
                _transfer(collection.path_of(photo), out / target, photo, options)
                files += 1
            written.append((photo, targets[0]))
        except DecodeError as error:
            problems.append((photo.path, error.reason))
        if progress is not None:
            progress(number, len(photos))
    tables: tuple[Path, ...] = ()
    if options.layout == "csv":
        tables = (_write_csv(out / "labels.csv", _csv_rows(written)),)
    elif options.layout == "nnc":
        tables = _write_console(out, written)
    renamed = tuple(item for item in folders.items() if item[0] != item[1])
    if options.layout == "folders" and renamed:
        rows = [["folder", "label"], *([folder, label] for label, folder in renamed)]
        tables = (_write_csv(out / "folders.csv", rows),)
    return Exported(
        files=files,
        tables=tables,
        unlabeled=len(collection.photos) - len(photos),
        problems=tuple(problems),
        renamed=renamed if options.layout == "folders" else (),
        collisions=tuple(collisions),
        contradictions=tuple(_contradictions(photos)),
    )


def _contradictions(photos: Sequence[Photo]) -> Iterator[tuple[str, str]]:
    first: dict[str, Photo] = {}
    for photo in photos:
        other = first.setdefault(photo.digest, photo)
        if set(other.labels) != set(photo.labels):
            yield other.path, photo.path


def _check_empty(collection: Collection, out: Path) -> None:
    if out.resolve().is_relative_to(collection.root.resolve()):
        raise CollectionError(
            f"{out} lies inside {collection.root}, where the next scan would find the photos "
            "again. Choose a folder outside of it."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CollectionError(f"{out} is not an empty folder. Choose a new one; nothing changed.")


def _targets(photo: Photo, options: ExportOptions, folder_of: Mapping[str, str]) -> Iterator[str]:
    name = PurePosixPath(photo.path)
    reencoded = options.size is not None or (options.crops and photo.crop is not None)
    file = name.stem + ".jpg" if reencoded else name.name
    if options.layout != "folders":
        yield "/".join(["photos", *map(safe_name, name.parts[:-1]), safe_name(file)])
        return
    for label in photo.labels:
        part = f"{_FOLDER_OF[photo.part]}/" if photo.part is not None else ""
        yield f"{part}{folder_of[label]}/{safe_name(file)}"


def _free(target: str, taken: set[str]) -> str:
    # Compared without case: macOS and Windows take A.jpg and a.JPG for one file.
    path, number = PurePosixPath(target), 2
    free = target
    while free.casefold() in taken:
        free = str(path.with_name(numbered(path.name, number)))
        number += 1
    taken.add(free.casefold())
    return free


def _transfer(source: Path, target: Path, photo: Photo, options: ExportOptions) -> None:
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    if options.size is not None or (options.crops and photo.crop is not None):
        crop = photo.crop if options.crops else None
        content = _jpeg(_pixels(source, crop, options), photo)
        write_atomically(target, lambda file: file.write(content))
        return
    with storage_errors(target):
        match options.transfer:
            case "copy":
                shutil.copy2(source, target)
            case "symlink":
                target.symlink_to(source.resolve())
            case "hardlink":
                try:
                    os.link(source, target)
                except OSError as error:
                    if error.errno == errno.EXDEV:
                        raise StorageError(
                            f"{target} cannot be a hard link: it is on another disk than "
                            f"{source}. Leave out --hardlink to copy, or use --symlink."
                        ) from error
                    raise


def _pixels(source: Path, crop: Crop | None, options: ExportOptions) -> NDArray[np.uint8]:
    if options.size is not None:
        return load_image(source, size=options.size, fit=options.fit, crop=crop)
    image = decode_photo(source)
    side = round((crop.side if crop is not None else 1.0) * min(image.shape[:2]))
    return crop_and_resize(image, size=max(side, 1), fit=options.fit, crop=crop)


def _jpeg(image: NDArray[np.uint8], photo: Photo) -> bytes:
    exif = Image.Exif()
    if photo.taken_at is not None:
        # ISO "2024-05-01T10:00:01.5" is "2024:05:01 10:00:01" in EXIF.
        taken = photo.taken_at[:19].replace("-", ":").replace("T", " ")
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = taken
        exif[ExifTags.Base.DateTime] = taken
    if photo.camera is not None:
        exif[ExifTags.Base.Model] = photo.camera
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=_JPEG_QUALITY, exif=exif)
    return content.getvalue()


def _csv_rows(written: Sequence[tuple[Photo, str]]) -> list[list[str]]:
    with_parts = any(photo.part is not None for photo, _ in written)
    rows = [["path", "label"] + ["part"] * with_parts]
    for photo, target in written:
        rows.append([target, join_labels(photo.labels)] + [photo.part or ""] * with_parts)
    return rows


def _write_console(out: Path, written: Sequence[tuple[Photo, str]]) -> tuple[Path, ...]:
    """Writes ``data.csv``, or one file a part, and ``labels.txt`` with a name an index."""
    labels = sorted({label for photo, _ in written for label in photo.labels})
    index = {label: number for number, label in enumerate(labels)}
    several = any(len(photo.labels) > 1 for photo, _ in written)
    header = ["x:image"]
    header += [f"y__{i}:{label}" for label, i in index.items()] if several else ["y:label"]
    tables = [write_text(out / "labels.txt", "".join(f"{label}\n" for label in labels))]
    for part in sorted({photo.part or "" for photo, _ in written}):
        rows = [header]
        for photo, target in written:
            if (photo.part or "") != part:
                continue
            if several:
                values = [str(int(label in photo.labels)) for label in labels]
            else:
                values = [str(index[photo.labels[0]])]
            rows.append([f"./{target}", *values])
        tables.append(_write_csv(out / f"{part or 'data'}.csv", rows))
    return tuple(tables)


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    content = text.getvalue().encode("utf-8", "surrogateescape")
    return write_atomically(path, lambda file: file.write(content))
