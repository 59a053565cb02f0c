"""Exceptions of finetune, as one tree.

    FinetuneError                 base of all; the command line prints it and exits 1
    ├── ConfigError               invalid settings; one message names all of them
    ├── PhotoError
    │   ├── DecodeError           one photo could not be opened: .path, .reason
    │   └── CollectionError       the collection cannot be used: empty, one label ...
    │       └── CatalogError      its catalog cannot be opened: newer schema, locked, read-only
    ├── AugmentError              an invalid augmentation recipe or pipeline file
    ├── ModelError                unknown model, weights that do not fit, a refused weights file
    │   └── WeightsUnavailable    pretrained weights are neither on disk nor can be downloaded
    ├── DeviceError               a device that does not exist, or that ran out of memory
    ├── RunError                  no run, one that exists already, nothing to resume
    ├── StorageError              a file could not be written; older files are intact
    └── MissingExtra              an optional package is needed: names the extra to install

A message names the file, label or flag, what was found, and the next step.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

MAX_CHARACTERS = 2000
"""Maximum length of a message; a damaged file can be quoted in one."""

CONTROL = {"Cc", "Cf"}
"""Unicode categories of characters that change how a terminal shows others."""


class FinetuneError(Exception):
    """Base of all errors that the user can resolve.

    A message is one line of bounded length, without control characters: a damaged file is quoted.
    """

    def __str__(self) -> str:
        text = " ".join(super().__str__().splitlines())
        text = "".join(
            c.encode("unicode_escape").decode() if unicodedata.category(c) in CONTROL else c
            for c in text
        )
        if len(text) <= MAX_CHARACTERS:
            return text
        half = MAX_CHARACTERS // 2
        return f"{text[:half]} … {text[3 - half :]}"


class ConfigError(FinetuneError):
    """Invalid settings."""


class PhotoError(FinetuneError):
    """Base of errors about photos on disk."""


class DecodeError(PhotoError):
    """One photo could not be opened.

    Attributes:
        path: The file, or None for a photo given as bytes.
        reason: A few words: ``"truncated"``, ``"not a photo"`` ...
    """

    def __init__(self, path: Path | None, reason: str) -> None:
        super().__init__(f"{path if path is not None else 'photo'}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[DecodeError], tuple[Path | None, str]]:
        # Exceptions pickle by their args; a process pool sends this one across with both fields.
        return (type(self), (self.path, self.reason))


class CollectionError(PhotoError):
    """A collection that cannot be used."""


class CatalogError(CollectionError):
    """A catalog that cannot be opened."""


class AugmentError(FinetuneError):
    """Invalid augmentation recipe or pipeline file."""


class ModelError(FinetuneError):
    """Unknown model, or weights that do not fit it."""


class WeightsUnavailable(ModelError):  # noqa: N818 - reads better where it is caught
    """Pretrained weights are neither on this machine nor can be downloaded."""


class DeviceError(FinetuneError):
    """A requested device that cannot be used."""


class RunError(FinetuneError):
    """Run folder that does not exist, exists already, or has nothing to resume."""


class StorageError(FinetuneError):
    """A file that cannot be written; an older version is intact."""


class MissingExtra(FinetuneError):  # noqa: N818 - as above
    """A requested feature that needs an optional package."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}'. "
            f"Install it with: pip install 'finetune-photos[{extra}]'"
        )
