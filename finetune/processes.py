"""Processes that share the work of one command (imports no torch)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError


class Team(Protocol):
    """Processes that work on one command together and wait for each other."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes results and prints."""
        ...

    def shard(self, items: NDArray[Any]) -> NDArray[Any]:
        """Returns this process's consecutive part of `items`."""
        ...

    def main_first(self) -> AbstractContextManager[None]:
        """Runs the block in the main process first, then in the others."""
        ...

    def barrier(self) -> None:
        """Waits for every process."""
        ...

    def gather_objects(self, value: Any) -> list[Any]:
        """Returns the values of all processes in the order of their ranks, in every process."""
        ...


class Alone:
    """Team of one process."""

    is_main = True

    def shard(self, items: NDArray[Any]) -> NDArray[Any]:
        """Returns all items."""
        return items

    def main_first(self) -> AbstractContextManager[None]:
        """Runs the block."""
        return nullcontext()

    def barrier(self) -> None:
        """Waits for nobody."""

    def gather_objects(self, value: Any) -> list[Any]:
        """Returns a list of the value."""
        return [value]


ALONE: Team = Alone()


def own_batches(team: Team, total: int, batch_size: int) -> NDArray[np.int64]:
    """Returns the indices of a process's items, in whole batches of those of one process.

    So that no result depends on the number of processes.
    """
    batches = team.shard(np.arange(-(-total // batch_size)))
    if not len(batches):
        return np.empty(0, np.int64)
    return np.arange(batches[0] * batch_size, min((batches[-1] + 1) * batch_size, total))


@dataclass(frozen=True, kw_only=True)
class Share:
    """Share of a process that waits for no other.

    Attributes:
        rank: Number of the process, from 0.
        count: Number of processes.
    """

    rank: int = 0
    count: int = 1

    def rows(self, total: int, *, unit: int = 1) -> range:
        """Returns this process's consecutive rows of `total`, in whole units where possible.

        Example:
            >>> [Share(rank=rank, count=2).rows(10, unit=4) for rank in (0, 1)]
            [range(0, 8), range(8, 10)]
        """
        units = -(-total // unit)
        size, larger = divmod(units, self.count)
        start = self.rank * size + min(self.rank, larger)
        end = start + size + (self.rank < larger)
        return range(min(start * unit, total), min(end * unit, total))

    def of(self, names: Sequence[str], *, unit: int = 1) -> list[int]:
        """Returns the indices of this process's names; all copies of a name are in one share."""
        rows = self.rows(len(names), unit=unit)
        if self.count == 1 or len(set(names)) == len(names):
            return list(rows)
        first: dict[str, int] = {}
        return [i for i, name in enumerate(names) if first.setdefault(name, i) in rows]


def launched() -> Share:
    """Returns the share that ``torchrun`` or ``accelerate launch`` gave to this process.

    Raises:
        ConfigError: ``RANK`` or ``WORLD_SIZE`` of the environment is no such number.
    """
    rank, count = _number("RANK", 0), _number("WORLD_SIZE", 1)
    if not 0 <= rank < count:
        raise ConfigError(
            f"RANK={rank} in the environment must lie between 0 and WORLD_SIZE - 1 = {count - 1}."
        )
    return Share(rank=rank, count=count)


def local_processes() -> int:
    """Returns the number of processes of the launch on this machine."""
    return max(1, _number("LOCAL_WORLD_SIZE", 1))


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.strip().isdecimal():
        raise ConfigError(f"{name}={text} in the environment must be a number, such as {default}.")
    return int(text)
