"""Where the caches of a collection are kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from finetune.files import HIDDEN_FOLDER, user_cache_folder


def collection_home(root: Path, catalog: Path | None = None) -> Path:
    """Returns the folder for a collection's caches; nothing is made there yet.

    It is ``.finetune`` in the collection, or a folder of this user's cache where the collection
    cannot be written or a person keeps its catalog elsewhere.
    """
    hidden = root / HIDDEN_FOLDER
    if catalog is None and os.access(hidden if hidden.exists() else root, os.W_OK):
        return hidden
    name = hashlib.blake2b(str(root.resolve()).encode("utf-8", "surrogateescape"), digest_size=16)
    return user_cache_folder() / "collections" / name.hexdigest()
