"""Every way in which finetune refuses or fails, as one tree.

    FinetuneError                 base of all; the command line prints it and exits 1
    ├── ConfigError               settings that cannot work; names every bad one in one message
    ├── PhotoError
    │   ├── DecodeError           one photo could not be opened: .path, .reason
    │   └── CollectionError       the collection cannot be used: empty, one label ...
    │       └── CatalogError      its catalog cannot be opened: newer schema, locked, read-only
    ├── AugmentError              an augmentation recipe or pipeline file that does not work
    ├── ModelError                unknown model, weights that do not fit, a refused weights file
    │   └── WeightsUnavailable    pretrained weights are neither here nor to be had
    ├── DeviceError               a device that is not there, or that ran out of memory
    ├── RunError                  no run, one that exists already, nothing to resume
    ├── StorageError              a file could not be written; nothing old is lost
    └── MissingExtra              an optional package is needed: says which extra to install

A message says which file, label or flag, what was found, and what to do next.
"""

from __future__ import annotations

from pathlib import Path


class FinetuneError(Exception):
    """Base of all errors that a person can do something about."""


class ConfigError(FinetuneError):
    """Settings that cannot work."""


class PhotoError(FinetuneError):
    """Something about photos on disk."""


class DecodeError(PhotoError):
    """One photo could not be opened.

    Attributes:
        path: The file, or None where the photo came as bytes.
        reason: What is wrong with it, in a few words: ``"truncated"``, ``"not a photo"`` ...
    """

    def __init__(self, path: Path | None, reason: str) -> None:
        super().__init__(f"{path if path is not None else 'photo'}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[DecodeError], tuple[Path | None, str]]:
        # Exceptions pickle by their args; a process pool sends this one across with both fields.
        return (type(self), (self.path, self.reason))


class CollectionError(PhotoError):
    """The collection as a whole cannot be used."""


class CatalogError(CollectionError):
    """The catalog of a collection cannot be opened."""


class AugmentError(FinetuneError):
    """An augmentation recipe or pipeline file that does not work."""


class ModelError(FinetuneError):
    """An unknown model, or weights that do not fit it."""


class WeightsUnavailable(ModelError):  # noqa: N818 - reads better where it is caught
    """Pretrained weights are neither on this machine nor to be had."""


class DeviceError(FinetuneError):
    """A device that was asked for and cannot be used."""


class RunError(FinetuneError):
    """A run folder that is none, exists already, or has nothing to resume."""


class StorageError(FinetuneError):
    """A file could not be written; what was there before is intact."""


class MissingExtra(FinetuneError):  # noqa: N818 - as above
    """An optional package is needed for what was asked."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}'. "
            f"Install it with: pip install 'finetune-photos[{extra}]'"
        )
