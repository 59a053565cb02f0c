"""Versions of finetune and of what it runs on."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from finetune import __version__


def version_lines() -> list[str]:
    """Returns the lines of ``finetune --version``: versions and the default device.

    torch is imported only where its build and the machine may have an accelerator; that takes
    seconds.
    """
    torch = _version("torch")
    return [
        f"finetune {__version__}",
        f"Python {platform.python_version()}",
        f"torch {torch}",
        f"timm {_version('timm')}",
        f"device {_device(torch)}",
    ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _device(torch: str) -> str:
    gpu = Path("/proc/driver/nvidia/version").exists() or Path("/dev/kfd").exists()
    if torch == "not installed" or "+cpu" in torch or (platform.system() == "Linux" and not gpu):
        return "cpu"
    from finetune.training.device import choose_device

    return str(choose_device(None))
