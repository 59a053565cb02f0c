"""Journaled moves, copies and links of photos that can be undone and never overwrite a file.

Each step is written to a journal, and is on disk, before its file moves. After a power failure
every photo is either at its source or at its target in the journal, and `MoveJournal.undo` moves it
back.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from finetune.errors import CollectionError
from finetune.files import numbered, parse_json, safe_name, storage_errors, write_text
from finetune.photos.scan import find_photos

JOURNAL = "moves.jsonl"

Transfer = Literal["copy", "link", "move"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Move:
    """One journaled step.

    Attributes:
        source: Path below the source folder; absolute where a journal has no source folder.
        target: Path below the target folder.
        size: Of the photo copied or linked to, in bytes.
        mtime_ns: Of the photo copied or linked to, when it was last modified.
        link: Text of a symbolic link that was moved; the new link is absolute.
    """

    source: str
    target: str
    transfer: Transfer = "move"
    size: int | None = None
    mtime_ns: int | None = None
    link: str | None = None


@dataclass(frozen=True, kw_only=True)
class MoveResult:
    """Steps that were done or undone, and the others, each with the reason."""

    done: tuple[Move, ...]
    problems: tuple[tuple[Move, str], ...]


class MoveJournal:
    """Journal of the files that were moved, copied or linked into a folder.

    Args:
        path: The journal, a file of JSON lines.
        target_root: Folder that the files go to.
        source_root: Folder of the sources; None allows any absolute path.
    """

    def __init__(self, path: Path, *, target_root: Path, source_root: Path | None = None) -> None:
        self.path = path
        self.target_root = target_root
        self.source_root = source_root
        self._moved: dict[str, str] = {}
        self._links: defaultdict[str, list[Path]] = defaultdict(list)

    def prepare(self) -> None:
        """Creates the journal's folder and removes a line that a power failure cut off.

        Raises:
            StorageError: The folder cannot be written.
        """
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                file.seek(0)
                content = file.read()
                complete = content.rfind(b"\n") + 1
                if complete != len(content):
                    file.truncate(complete)

    def transfer(self, source: str, target: str, transfer: Transfer = "move") -> Move:
        """Writes one step to the journal, then does it. `target` must not exist.

        Raises:
            StorageError: The file cannot be moved, copied or linked.
        """
        old, new = self._source_path(source), self.target_root / target
        entry: dict[str, Any] = {"source": source, "target": target, "transfer": transfer}
        if self.source_root not in (None, self.target_root):
            entry["root"] = str(self.source_root)
        with storage_errors(new):
            if transfer != "move":
                entry |= _size_and_mtime(old)
            elif old.is_symlink():
                entry["link"] = os.readlink(old)  # noqa: PTH115 - the text, unchanged
            with self.path.open("a", encoding="utf-8") as log:
                # Escaped to ASCII, so that no file name can break a line.
                log.write(json.dumps(entry) + "\n")
                log.flush()
                if transfer == "move":
                    # Without this line a moved photo could not be found again.
                    os.fsync(log.fileno())
            new.parent.mkdir(parents=True, exist_ok=True)
            match transfer:
                case "copy":
                    _copy(old, new)
                case "link":
                    new.symlink_to(old)
                case "move" if "link" in entry:
                    self._move_link(old, new, entry["link"])
                case "move":
                    self._move_file(old, new)
        return _checked(entry)

    def _move_link(self, old: Path, new: Path, text: str) -> None:
        leads_to = _leads_to(old, text)
        now_at = self._moved.get(leads_to, leads_to)
        new.symlink_to(now_at)
        old.unlink()
        self._moved[os.path.join(os.path.realpath(old.parent), old.name)] = now_at  # noqa: PTH118
        self._links[now_at].append(new)

    def _move_file(self, old: Path, new: Path) -> None:
        path = os.path.realpath(old)
        _move(old, new)
        self._moved[path] = os.path.realpath(new)
        for link in self._links.pop(path, ()):  # links that were moved before their file
            link.unlink()
            link.symlink_to(self._moved[path])
            self._links[self._moved[path]].append(link)

    def read(self) -> tuple[Move, ...]:
        """Returns the journaled steps, oldest first; those of older formats included.

        Raises:
            CollectionError: A line is damaged or has a path outside of the journal's folders.
        """
        if not self.path.is_file():
            return ()
        text = self.path.read_text(encoding="utf-8", errors="surrogateescape")
        lines = text.split("\n")
        del lines[-1]  # empty, or cut off before its file moved
        moves = []
        for number, line in enumerate(lines, start=1):
            if line.startswith('{"transfer"') and not line.endswith("}"):
                continue  # older journals kept a cut-off line and went on below it
            try:
                entry = parse_json(line)
                move = _checked(entry)
                owner = entry.get("root") if isinstance(entry, dict) else None
            except (ValueError, KeyError, TypeError) as error:
                raise CollectionError(
                    f"{self.path}, line {number} is damaged: {line[:80]!r}."
                ) from error
            # A journal may be untrusted: it must not move files anywhere else.
            for path in (move.source, move.target):
                below = self.source_root is not None or path is move.target
                if ".." in Path(path).parts or bool(Path(path).anchor) is below:
                    raise CollectionError(
                        f"{self.path}, line {number} leads out of the folder: {path!r}."
                    )
            if owner not in (None, str(self.source_root)) and self.source_root is not None:
                raise CollectionError(
                    f"{self.target_root} holds photos of {owner}, not of {self.source_root}. "
                    "Name the collection of these photos, or choose another folder."
                )
            moves.append(move)
        return tuple(moves)

    def undo(self, *, progress: Progress | None = None) -> MoveResult:
        """Undoes all steps, the last first, so that a path moved twice ends with its first file.

        A file that was changed, that cannot be moved, or whose old path is taken, stays, and its
        step stays in the journal: calling again tries it again. Empty folders and an empty journal
        are removed.

        Args:
            progress: Called as ``progress(done, total)``.

        Raises:
            CollectionError: As `read`.
            StorageError: The journal cannot be written.
        """
        moves = self.read()
        done: list[Move] = []
        problems: list[tuple[Move, str]] = []
        left: list[Move] = []
        for number, move in enumerate(reversed(moves), start=1):
            target = self.target_root / move.target
            if os.path.lexists(target):
                reason = self._undo_one(move)
                if reason is None:
                    done.append(move)
                    remove_empty_folders(target.parent, self.target_root)
                else:
                    problems.append((move, reason))
                    left.insert(0, move)
            elif move.transfer == "move" and not os.path.lexists(self._source_path(move.source)):
                problems.append((move, "the file no longer exists"))
            if progress is not None:
                progress(number, len(moves))
        with storage_errors(self.path):
            if left:
                write_text(self.path, "".join(self._line(move) for move in left))
            else:
                self.path.unlink()
                remove_empty_folders(self.path.parent, self.target_root)
                with contextlib.suppress(OSError):
                    self.target_root.rmdir()
        return MoveResult(done=tuple(done), problems=tuple(problems))

    def _undo_one(self, move: Move) -> str | None:
        """Undoes a step whose target exists; returns the reason if it must or can not."""
        source, target = self._source_path(move.source), self.target_root / move.target
        try:
            match move.transfer:
                case "link":
                    if not target.is_symlink() or target.readlink() != source:
                        return "it is no longer the link that was made"
                    target.unlink()
                case "copy":
                    made = {"size": move.size, "mtime_ns": move.mtime_ns}
                    if target.is_symlink() or _size_and_mtime(target) != made:
                        return "it was changed since"
                    target.unlink()
                case "move" if move.link is not None and not target.is_symlink():
                    return "it is no longer the link that was moved"
                case "move" if move.link is not None and not os.path.lexists(source):
                    source.parent.mkdir(parents=True, exist_ok=True)
                    source.symlink_to(move.link)
                    target.unlink()
                case "move" if not os.path.lexists(source):
                    source.parent.mkdir(parents=True, exist_ok=True)
                    _move(target, source)
                case "move" if same_content(source, target) or (
                    move.link is not None and _is_link(source, move.link)
                ):
                    target.unlink()  # a move that was cut short
                case "move":
                    return "another file has taken its place"
        except OSError as error:
            return (error.strerror or str(error)).lower()
        return None

    def _source_path(self, source: str) -> Path:
        return Path(source) if self.source_root is None else self.source_root / source

    def _line(self, move: Move) -> str:
        entry: dict[str, Any] = {key: v for key, v in vars(move).items() if v is not None}
        if self.source_root not in (None, self.target_root):
            entry["root"] = str(self.source_root)
        return json.dumps(entry) + "\n"


def quarantine(
    root: Path, paths: Sequence[str], folder: Path, *, progress: Progress | None = None
) -> MoveResult:
    """Moves photos of a collection to another folder, under the same relative paths.

    A photo stays, with the reason, if a symbolic link in the collection leads to it, or if it lies
    in a linked folder. A link that is moved still leads to its file.

    Args:
        root: The collection's folder.
        paths: Photos, as paths below `root`.
        folder: Created when missing; must lie outside of `root`.
        progress: Called as ``progress(done, total)``.

    Raises:
        CollectionError: `folder` is inside of `root`, or already holds another collection's photos.
        StorageError: A photo could not be moved; those before it are in the journal.
    """
    root, folder = root.resolve(), folder.resolve()
    if folder.is_relative_to(root):
        raise CollectionError(
            f"--quarantine {folder} lies inside {root}, where the next scan would find the photos "
            "again. Choose a folder outside of it."
        )
    journal = MoveJournal(folder / JOURNAL, target_root=folder, source_root=root)
    journal.read()
    journal.prepare()
    needed = link_targets(root)
    done: list[Move] = []
    problems: list[tuple[Move, str]] = []
    for number, path in enumerate(paths, start=1):
        target = free_path(folder / path).relative_to(folder).as_posix()
        if not os.path.lexists(root / path):
            problems.append((Move(source=path, target=target), "the file no longer exists"))
        elif is_behind_link(root / path, root):
            problems.append((Move(source=path, target=target), "its folder is a link"))
        elif path in needed:
            problems.append((Move(source=path, target=target), "a link leads to it"))
        else:
            done.append(journal.transfer(path, target))
        if progress is not None:
            progress(number, len(paths))
    return MoveResult(done=tuple(done), problems=tuple(problems))


def restore(root: Path, folder: Path, *, progress: Progress | None = None) -> MoveResult:
    """Moves the photos of a quarantine folder back to where they were; see `MoveJournal.undo`.

    Raises:
        CollectionError: `folder` is not a quarantine of this collection.
        StorageError: A photo could not be moved; the same command continues where it stopped.
    """
    root, folder = root.resolve(), folder.resolve()
    journal = MoveJournal(folder / JOURNAL, target_root=folder, source_root=root)
    if not journal.path.is_file():
        raise CollectionError(f"{folder} is not a quarantine folder: it has no {JOURNAL}.")
    return journal.undo(progress=progress)


def link_targets(root: Path) -> frozenset[str]:
    """Returns the paths of the photos in a folder to which a symbolic link in it leads."""
    others = find_photos(root).other_names.items()
    return frozenset(own for path, own in others if (root / path).is_symlink())


def is_behind_link(path: Path, root: Path) -> bool:
    """Returns whether a folder between `root` and a file below it is a symbolic link."""
    return any(
        parent.is_symlink()
        for parent in path.parents
        if parent != root and parent.is_relative_to(root)
    )


def free_path(target: Path) -> Path:
    """Returns the path, with a number if a file has it already."""
    free, number = target, 2
    while os.path.lexists(free):
        free = target.with_name(numbered(target.name, number))
        number += 1
    return free


def remove_empty_folders(folder: Path, root: Path) -> None:
    """Removes a folder and its parents below `root`, as far as they are empty."""
    while folder != root and folder.is_relative_to(root):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _checked(entry: Any) -> Move:
    """Returns a journal entry as a `Move`; raises KeyError, TypeError or ValueError."""
    if isinstance(entry, list):  # annotate's older journals
        source, target = entry
        entry = {"source": source, "target": target}
    elif "moved_to" in entry:  # quarantine's older journals
        entry = {"source": entry["path"], "target": entry["moved_to"]}
    source, target, transfer = entry["source"], entry["target"], entry.get("transfer", "move")
    if not (isinstance(source, str) and isinstance(target, str) and transfer in get_args(Transfer)):
        raise TypeError("not a journal entry")
    link = entry.get("link")
    if not isinstance(link, str | None):
        raise TypeError("not a journal entry")
    if transfer == "move" or (transfer == "link" and "size" not in entry):  # older journals
        return Move(source=source, target=target, transfer=transfer, link=link)
    return Move(
        source=source,
        target=target,
        transfer=transfer,
        size=int(entry["size"]),
        mtime_ns=int(entry["mtime_ns"]),
    )


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # Another disk: the copy is complete and on disk before the original is removed.
        _copy(source, target)
        source.unlink()


def _copy(source: Path, target: Path) -> None:
    # The name of the target may be as long as the file system allows.
    part = target.with_name(f".{safe_name(target.name, max_bytes=80)}.part")
    try:
        shutil.copy2(source, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _size_and_mtime(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def same_content(first: Path, second: Path) -> bool:
    """Returns whether two paths are files, not links, of the same bytes."""
    try:
        if first.is_symlink() or second.is_symlink():
            return False
        same_size = first.stat().st_size == second.stat().st_size
        return same_size and first.read_bytes() == second.read_bytes()
    except OSError:
        return False


def _leads_to(link: Path, text: str) -> str:
    """Returns the path of the file that a link leads to, whether it exists or not."""
    return os.path.realpath(os.path.join(os.path.realpath(link.parent), text))  # noqa: PTH118


def _is_link(path: Path, text: str) -> bool:
    return path.is_symlink() and os.readlink(path) == text  # noqa: PTH115 - the text, unchanged
