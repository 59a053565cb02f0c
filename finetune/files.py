"""Atomic file writes, safe file names, and cache folders."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs

from finetune.errors import StorageError

HIDDEN_FOLDER = ".finetune"
"""Name of the folder in which a collection keeps its catalog and caches."""


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns an OSError while writing `path` into a StorageError with the next step."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "the disk is full. Free some space and run the same command again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            what = "no permission to write there. Choose another folder"
        else:
            what = error.strerror or str(error)
        raise StorageError(f"Could not write {path}: {what}. Older files are intact.") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary file beside `path`; it replaces `path` once it is complete and on disk.

    If the block fails, the temporary file is removed and `path` is unchanged.

    Raises:
        StorageError: The disk is full or the folder cannot be written; the old file is intact.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        try:
            yield Path(name)
            with open(name, "rb+") as file:  # noqa: PTH123 - a plain descriptor is what fsync needs
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~umask())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        _sync_folder(path.parent)


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> Path:
    """Writes a file through `replacing` and returns its path.

    Args:
        path: The file to write. Its folder is made when missing.
        write: Called with the open binary file.

    Raises:
        StorageError: As `replacing`.
    """
    with replacing(path) as part, part.open("wb") as file:
        write(file)
    return path


def write_text(path: Path, text: str) -> Path:
    """Writes UTF-8 text atomically and returns `path`; raises StorageError."""
    return write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: object) -> Path:
    """Writes `value` as indented UTF-8 JSON atomically and returns `path`; raises StorageError."""
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Returns the value in a JSON file; OSError and ValueError pass through to the caller."""
    return json.loads(path.read_text(encoding="utf-8"))


def safe_name(text: str, *, fallback: str = "unnamed") -> str:
    """Returns `text` as one file name that every common file system takes.

    Any script is kept; path separators, control characters and the characters that Windows
    refuses become ``_``.

    Example:
        >>> safe_name("gulls/Larus argentatus?")
        'gulls_Larus argentatus_'
    """
    name = unicodedata.normalize("NFC", text)
    name = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", name).strip(" .")
    if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name):
        name = f"_{name}"
    while len(name.encode()) > 200:
        name = name[:-1]
    return name or fallback


def user_cache_folder() -> Path:
    """Returns the folder for caches shared by all collections; `FINETUNE_CACHE` overrides it."""
    override = os.environ.get("FINETUNE_CACHE")
    if override:
        return Path(override)
    folder = platformdirs.user_cache_path("finetune", appauthor=False)
    # Folder of earlier versions on every system; catalogs in it stay in use.
    earlier = Path.home() / ".cache" / "finetune"
    return earlier if earlier.is_dir() and not folder.is_dir() else folder


def umask() -> int:
    """Returns the permission bits that the process withholds from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable; a no-op where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def collection_cache_dir(root: Path, catalog: Path | None = None) -> Path:
    """Returns the folder for a collection's caches, without creating it.

    It is ``.finetune`` in the collection, or a folder of this user's cache where the collection
    cannot be written or the user chose another place for the catalog.
    """
    hidden = root / HIDDEN_FOLDER
    if catalog is None and os.access(hidden if hidden.exists() else root, os.W_OK):
        return hidden
    name = hashlib.blake2b(str(root.resolve()).encode("utf-8", "surrogateescape"), digest_size=16)
    return user_cache_folder() / "collections" / name.hexdigest()
