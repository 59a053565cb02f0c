"""Texts of errors and settings without folders, people and computers."""

from __future__ import annotations

import os
import platform
import re
import traceback
from pathlib import Path

_PATH = re.compile(
    r"""(?<![\w.:/~-])(?:[A-Za-z]:[\\/]|\\\\|/)(?:[^\s'":;,()]*[\\/])?([^\s'":;,()\\/]*)"""
)
_QUOTED_PATH = re.compile(r"""(['"])(?:[A-Za-z]:[\\/]|\\\\|/|~/)(?:[^'"\n]*[\\/])?([^'"\n]*)\1""")
_COMMON = {"home", "root", "user", "users"}


def redact(text: str) -> str:
    """Returns text with absolute paths reduced to their last part, and without names of this user.

    Example:
        >>> redact("/home/maria/birds/robin.jpg: truncated")
        '.../robin.jpg: truncated'
    """
    text = _QUOTED_PATH.sub(r"\1.../\2\1", text)
    text = _PATH.sub(r".../\1", text)
    secrets = (
        Path.home().name,
        os.environ.get("USER"),
        os.environ.get("USERNAME"),
        platform.node(),
    )
    for secret in secrets:
        if secret and len(secret) > 2 and secret.lower() not in _COMMON:
            text = re.sub(rf"(?i)(?<!\w){re.escape(secret)}(?!\w)", "...", text)
    return text


def describe_error(error: BaseException) -> str:
    """Returns an error and the lines of finetune that it came from, redacted."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if "finetune" in Path(frame.filename).parts] or frames
    places = ", ".join(f"{_module(frame.filename)}:{frame.lineno}" for frame in inside[-3:])
    message = redact(" ".join(str(error).split()))[:400]
    return f"{type(error).__name__}: {message} (at {places})"


def _module(filename: str) -> str:
    """Returns the dotted name of one of finetune's files, and the bare name of another."""
    parts = Path(filename).with_suffix("").parts
    if "finetune" not in parts:
        return Path(filename).name
    return ".".join(parts[len(parts) - 1 - parts[::-1].index("finetune") :])
