"""Checksum of the tensors of a file, kept in its metadata."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

CHECKSUM_KEY = "crc32"


def checksum_of(tensors: Mapping[str, Tensor]) -> str:
    """Returns the CRC-32 of the names and bytes of tensors on the CPU, in hexadecimal.

    Example:
        >>> import torch
        >>> checksum_of({"a": torch.zeros(2)}) == checksum_of({"a": torch.ones(2)})
        False
    """
    import torch

    def data(name: str) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = (
            tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        )
        return found

    return checksum_of_bytes((name, data(name)) for name in sorted(tensors))


def load_checked(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file, on the CPU.

    Raises:
        OSError, SafetensorError: The file cannot be read, or states another checksum.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, framework="pt") as file:
        stated = (file.metadata() or {}).get(CHECKSUM_KEY)
    tensors: dict[str, Tensor] = load_file(path)
    if stated is not None and stated != checksum_of(tensors):
        raise OSError("its tensors do not have the checksum that they were written with")
    return tensors


def checksum_of_bytes(parts: Iterable[tuple[str, NDArray[np.uint8]]]) -> str:
    """Returns the CRC-32 of names and their bytes, in order, in hexadecimal; imports no torch."""
    found = 0
    for name, data in parts:
        found = zlib.crc32(data.data, zlib.crc32(name.encode(), found))
    return f"{found:08x}"
