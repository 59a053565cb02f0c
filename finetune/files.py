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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import platformdirs

from finetune.errors import StorageError

HIDDEN_FOLDER = ".finetune"
"""Name of the folder in which a collection keeps its catalog and caches."""


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk, a full quota, and a file that exceeds ``ulimit -f``."""


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns an OSError while writing `path` into a StorageError with the next step."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
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
        # The name of the file may be as long as the file system allows.
        prefix = f".{safe_name(path.name, max_bytes=80)}."
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
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
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
    # A name that is no UTF-8 has lone surrogates, whose escape in Python is that of JSON.
    content = text.encode(errors="backslashreplace")
    return write_atomically(path, lambda file: file.write(content))


def read_json(path: Path) -> Any:
    """Returns the value in a JSON file; OSError and ValueError pass through to the caller."""
    return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str | bytes) -> Any:
    """Returns the value of JSON; ValueError also for text that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


MAX_NAME_BYTES = 200
"""Length of file names that every common file system takes, with room for a number."""


def safe_name(text: str, *, fallback: str = "unnamed", max_bytes: int = MAX_NAME_BYTES) -> str:
    """Returns `text` as one file name that every common file system takes.

    Any script is kept; path separators, control characters and the characters that Windows
    refuses become ``_``. A long name loses the end of its stem and keeps its suffix.

    Args:
        text: Any text.
        fallback: Returned where nothing is left.
        max_bytes: Longest name, in bytes of UTF-8.

    Example:
        >>> safe_name("gulls/Larus argentatus?")
        'gulls_Larus argentatus_'
    """
    name = unicodedata.normalize("NFC", text)
    name = re.sub(r'[\x00-\x1f<>:"/\\|?*]', "_", name).strip(" .")
    if re.fullmatch(r"(?i)(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³])( *\..*)?", name):
        name = f"_{name}"
    return _shortened(name, "", max_bytes) or fallback


def numbered(name: str, number: int) -> str:
    """Returns a file name with a number before its suffix, no longer than file systems allow.

    Example:
        >>> numbered("heron.jpg", 2)
        'heron (2).jpg'
    """
    return _shortened(name, f" ({number})", max(len(_bytes(name)), MAX_NAME_BYTES))


def safe_folders(labels: Iterable[str], *, nested: bool = True) -> dict[str, str]:
    """Returns a folder for each label, no two the same: a safe name for each level, if `nested`.

    Names that differ in case or Unicode form alone are the same to some file systems; all but
    the first of such labels, in sorted order, get a number.

    Example:
        >>> safe_folders(["owl?barn", "owl:barn"])
        {'owl:barn': 'owl_barn', 'owl?barn': 'owl_barn (2)'}
    """
    folders: dict[str, str] = {}
    chosen: dict[tuple[str, ...], str] = {}
    taken: set[str] = set()
    for label in sorted(set(labels)):
        pieces = [piece for piece in label.split("/") if piece] if nested else []
        pieces = pieces or [label]
        folder = ""
        for depth, piece in enumerate(pieces, start=1):
            key = tuple(pieces[:depth])
            if key not in chosen:
                name = free = safe_name(piece)
                number = 2
                while _folded(folder + free) in taken:
                    end = f" ({number})"
                    free = _shortened(name, "", MAX_NAME_BYTES - len(end)) + end
                    number += 1
                free = folder + free
                taken.add(_folded(free))
                chosen[key] = free
            folder = chosen[key] + "/"
        folders[label] = folder.rstrip("/")
    return folders


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _shortened(name: str, end: str, max_bytes: int) -> str:
    """Returns a name with `end` before its suffix, the stem cut so that it is short enough."""
    found = re.fullmatch(r"(.+)(\.\w{1,10})", name, flags=re.DOTALL)
    stem, suffix = (found[1], found[2]) if found else (name, "")
    if len(_bytes(stem + end + suffix)) <= max_bytes:
        return stem + end + suffix
    while stem and len(_bytes(stem + end + suffix)) > max_bytes:
        stem = stem[:-1]
    return stem.rstrip(" .") + end + suffix


def can_be_path(text: str) -> bool:
    """Returns whether a file system could have a path; asked for others, Python raises OSError.

    Example:
        >>> can_be_path("trip/カワセミ.jpg"), can_be_path("9" * 300), can_be_path("")
        (True, False, False)
    """
    content = text.encode("utf-8", "surrogatepass")
    fits = len(content) < 4096 and all(len(part) <= 255 for part in content.split(b"/"))
    return bool(text) and "\0" not in text and fits


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
