"""Checksum of the tensors of a file, kept in its metadata."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

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

    found = 0
    for name in sorted(tensors):
        data = tensors[name].detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        found = zlib.crc32(data.data, zlib.crc32(name.encode(), found))
    return f"{found:08x}"
