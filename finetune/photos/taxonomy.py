"""Taxonomy of labels: a tree from nested folders, or from ``taxonomy.csv`` beside the photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import CollectionError
from finetune.formatting import count
from finetune.photos.labels import label_index, nfc
from finetune.spreadsheets import read_csv, unguard

TAXONOMY_FILE = "taxonomy.csv"

LABEL = "label"
"""Name of the deepest level."""

MAX_DEPTH = 12
"""Largest number of levels above the labels."""


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """Tree with the labels as its leaves, all at the same depth.

    A label with fewer ancestors than others stands for itself at the levels that it lacks.

    Attributes:
        levels: Names of the levels from the top; the last is that of the labels.
        paths: Nodes of each label from the top, one for each level; the last is the label.
    """

    levels: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in class order."""
        return tuple(path[-1] for path in self.paths)

    @cached_property
    def nodes(self) -> tuple[tuple[str, ...], ...]:
        """Nodes of each level, in the order of their first label."""
        return tuple(tuple(dict.fromkeys(column)) for column in zip(*self.paths, strict=True))

    @cached_property
    def ancestors(self) -> NDArray[np.int64]:
        """Index of each label's node at each level, ``(levels, C)``."""
        columns = zip(*self.paths, strict=True)
        indices = [label_index(names) for names in self.nodes]
        return np.array(
            [
                [index[node] for node in column]
                for index, column in zip(indices, columns, strict=True)
            ]
        )

    def at(self, level: int, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the probabilities ``(N, nodes)`` of a level's nodes: sums over their labels.

        Args:
            level: Index in `levels`.
            probabilities: Of the labels, ``(N, C)``.
        """
        found = np.zeros((len(probabilities), len(self.nodes[level])))
        np.add.at(found.T, self.ancestors[level], probabilities.T)
        return np.minimum(found, 1.0)

    def distances(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the levels from labels up to their lowest common ancestor, ``(N,)``.

        0 for equal labels, 1 for labels with the same parent (Bertinetto et al. 2020, "Making
        Better Mistakes", section 4).
        """
        shared = self.ancestors[:, first] == self.ancestors[:, second]
        found: NDArray[np.int64] = (~shared).sum(axis=0)
        return found

    def lineage(self, level: int, node: str) -> tuple[str, ...]:
        """Returns a node of a level with its ancestors, from the top."""
        return next(path[: level + 1] for path in self.paths if path[level] == node)

    def describe(self) -> str:
        """Returns the tree in a sentence."""
        counts = ", ".join(
            f"{len(nodes):,} at {name}"
            for name, nodes in zip(self.levels[:-1], self.nodes[:-1], strict=True)
        )
        return f"The labels are the leaves of a tree: {counts}, {len(self.paths):,} labels."

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values; `from_dict` is the inverse."""
        return {"levels": list(self.levels), "paths": [list(path) for path in self.paths]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Taxonomy:
        """Inverse of `to_dict`; raises KeyError, TypeError or ValueError."""
        levels = tuple(str(name) for name in content["levels"])
        paths = tuple(tuple(str(node) for node in path) for path in content["paths"])
        if any(len(path) != len(levels) for path in paths):
            raise ValueError("a path of a taxonomy has not one node for each level")
        return cls(levels=levels, paths=paths)


def read_taxonomy(root: Path, labels: Sequence[str]) -> Taxonomy | None:
    """Returns the taxonomy of labels: from ``taxonomy.csv`` in the root, else from nested folders.

    None where no two labels share an ancestor that not all of them share.

    Args:
        root: Folder of the photos.
        labels: In class order.

    Raises:
        CollectionError: ``taxonomy.csv`` cannot be read or is no tree; the message names the line.
    """
    file = root / TAXONOMY_FILE
    if file.is_file():
        names, above = _read_file(file, labels)
    else:
        names, above = None, {label: _folders_above(label) for label in labels}
    return make_taxonomy(labels, above, names)


def make_taxonomy(
    labels: Sequence[str],
    above: Mapping[str, Sequence[str]],
    names: Sequence[str] | None = None,
) -> Taxonomy | None:
    """Returns the taxonomy of labels with their ancestors, or None if these say nothing.

    Levels that hold one node, or the same groups of labels as the level below, are left out.

    Args:
        labels: In class order.
        above: Ancestors of each label from the top; a label that is missing has none.
        names: Names of these levels; None: they are numbered from the top.

    Example:
        >>> above = {"robin": ["songbird"], "wren": ["songbird"]}
        >>> tree = make_taxonomy(["owl", "robin", "wren"], above)
        >>> tree.nodes
        (('owl', 'songbird'), ('owl', 'robin', 'wren'))
    """
    depth = max((len(above.get(label, ())) for label in labels), default=0)
    names = names or [f"level {number}" for number in range(1, depth + 1)]
    columns = []
    for level in range(depth):
        known = [above.get(label, ()) for label in labels]
        columns.append(
            tuple(
                path[level] if level < len(path) and path[level] else label
                for path, label in zip(known, labels, strict=True)
            )
        )
    kept: list[tuple[str, tuple[str, ...]]] = [(LABEL, tuple(labels))]
    for name, column in zip(reversed(names), reversed(columns), strict=True):
        if 1 < len(set(column)) < len(set(kept[-1][1])):
            kept.append((name, column))
    if len(kept) == 1:
        return None
    kept.reverse()
    return Taxonomy(
        levels=tuple(name for name, _ in kept),
        paths=tuple(zip(*(column for _, column in kept), strict=True)),
    )


def _folders_above(label: str) -> list[str]:
    folders = label.split("/")
    return ["/".join(folders[:end]) for end in range(1, len(folders))]


def _read_file(
    file: Path, labels: Sequence[str]
) -> tuple[Sequence[str] | None, dict[str, Sequence[str]]]:
    """Returns the names of the levels, if it has any, and the ancestors of each label."""
    try:
        header, *rows = [[nfc(unguard(cell).strip()) for cell in row] for row in read_csv(file)]
    except (OSError, ValueError) as error:
        raise CollectionError(
            f"{file} cannot be read: {error}. Its first line must be label,parent or the names of "
            "ranks such as species,genus,family."
        ) from error
    titles = [title.casefold() for title in header]
    if len(header) < 2 or len(set(titles)) < len(titles):
        raise CollectionError(
            f"{file}: its first line is {','.join(header)!r}; it must be label,parent or different "
            "names of ranks such as species,genus,family."
        )
    if len(header) > MAX_DEPTH:
        raise CollectionError(f"{file} has {len(header)} columns; {MAX_DEPTH} are the most.")
    for line, row in enumerate(rows, start=2):
        if row and len(row) != len(header):
            raise CollectionError(
                f"{file}, line {line}: {count(len(row), 'cell')} for {len(header)} columns."
            )
    full = [(line, row) for line, row in enumerate(rows, start=2) if any(row)]
    if titles[1] == "parent" and len(header) == 2:
        names, above = None, _by_parents(file, full, labels)
    else:
        names, above = _by_ranks(file, header, full, labels)
    known = {row[0] for _, row in full} | {row[-1] for _, row in full}
    if not set(labels) & known:
        raise CollectionError(
            f"{file} has none of the labels: they are {', '.join(map(repr, labels[:3]))} ..., and "
            f"its first column begins with {full[0][1][0]!r}."
            if full
            else f"{file} has no rows; name the parent of each label, or delete the file."
        )
    return names, above


def _by_parents(
    file: Path, rows: Sequence[tuple[int, list[str]]], labels: Sequence[str]
) -> dict[str, Sequence[str]]:
    parent_of: dict[str, str] = {}
    for line, (label, parent) in rows:
        if parent_of.setdefault(label, parent) != parent:
            raise CollectionError(
                f"{file}, line {line}: {label!r} has two parents, {parent_of[label]!r} and "
                f"{parent!r}."
            )
    above: dict[str, Sequence[str]] = {}
    for label in labels:
        path: list[str] = []
        node = parent_of.get(label, "")
        while node:
            if node in path or node == label or len(path) == MAX_DEPTH:
                raise CollectionError(
                    f"{file}: the ancestors of {label!r} do not end: {' > '.join([*path, node])}."
                )
            path.append(node)
            node = parent_of.get(node, "")
        above[label] = path[::-1]
    return above


def _by_ranks(
    file: Path, header: Sequence[str], rows: Sequence[tuple[int, list[str]]], labels: Sequence[str]
) -> tuple[list[str], dict[str, Sequence[str]]]:
    """Returns the ranks from the top, whether the first or the last column has the labels."""
    wanted = set(labels)
    first, last = (sum(row[place] in wanted for _, row in rows) for place in (0, -1))
    if last > first:
        header, rows = header[::-1], [(line, row[::-1]) for line, row in rows]
    above: dict[str, Sequence[str]] = {}
    higher: dict[tuple[int, str], tuple[int, list[str]]] = {}
    for line, row in rows:
        if above.setdefault(row[0], row[:0:-1]) != row[:0:-1]:
            raise CollectionError(f"{file}, line {line}: {row[0]!r} is listed twice.")
        for place in range(1, len(row)):
            rest = row[place + 1 :]
            before, known = higher.setdefault((place, row[place]), (line, rest))
            if row[place] and known != rest:
                raise CollectionError(
                    f"{file}, line {line}: the {header[place]} {row[place]!r} has other ancestors "
                    f"than in line {before}."
                )
    return list(header[:0:-1]), above
