"""How much memory a training has."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory in use.

    Attributes:
        where: ``RAM``, or ``GPU`` where the training has memory of a CUDA device.
        used_bytes: This process's own.
    """

    where: str
    used_bytes: int

    def __str__(self) -> str:
        gigabytes = self.used_bytes / 1e9
        return (
            f"{gigabytes:.1f} GB {self.where}"
            if gigabytes >= 0.95
            else (f"{self.used_bytes / 1e6:.0f} MB {self.where}")
        )


def memory_in_use() -> Memory:
    """Returns what this process has now: of the CUDA device if it uses one, else its resident set.

    It asks no device to wait: torch's allocator keeps the count on the host.
    """
    if torch.cuda.is_available():
        reserved = torch.cuda.memory_reserved()
        if reserved:
            return Memory(where="GPU", used_bytes=reserved)
    return Memory(where="RAM", used_bytes=psutil.Process().memory_info().rss)
