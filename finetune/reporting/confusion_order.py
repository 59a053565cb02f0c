"""Orders of the labels in which a confusion matrix tells something."""

from __future__ import annotations

import numpy as np

from finetune.evaluation.probabilities import Integers


def by_confusion(matrix: Integers) -> list[int]:
    """Returns an order in which labels that are taken for each other stand side by side.

    Each label starts as a chain of its own; chains are joined end to end at the pair of labels
    that is confused most often, as long as both are ends (greedy edge matching, as for traveling
    salesmen). Chains with the most mistakes come first, labels without a mistake last.
    """
    mutual = matrix + matrix.T
    np.fill_diagonal(mutual, 0)
    rows, columns = np.triu_indices(len(matrix), k=1)
    present = np.flatnonzero(mutual[rows, columns])
    strength = mutual[rows, columns][present]
    chains: dict[int, list[int]] = {k: [k] for k in range(len(matrix))}
    chain_of = list(range(len(matrix)))
    for place in present[np.argsort(-strength, kind="stable")]:
        a, b = int(rows[place]), int(columns[place])
        left, right = chains[chain_of[a]], chains[chain_of[b]]
        if left is right or a not in (left[0], left[-1]) or b not in (right[0], right[-1]):
            continue
        # Turn both so that a ends the left chain and b begins the right one.
        if left[-1] != a:
            left.reverse()
        if right[0] != b:
            right.reverse()
        gone = chain_of[b]
        left.extend(right)
        for label in right:
            chain_of[label] = chain_of[a]
        del chains[gone]
    mistakes = mutual.sum(axis=1)
    ordered = sorted(chains.values(), key=lambda chain: (-int(mistakes[chain].sum()), min(chain)))
    return [label for chain in ordered for label in chain]


def by_recall(matrix: Integers) -> list[int]:
    """Returns the labels by the share of their photos that is right, the worst first.

    Labels without photos come last.
    """
    photos = matrix.sum(axis=1)
    recall = np.divide(np.diagonal(matrix), photos, out=np.full(len(matrix), 2.0), where=photos > 0)
    return [int(k) for k in np.argsort(recall, kind="stable")]


def most_confused(matrix: Integers, limit: int) -> list[int]:
    """Returns at most `limit` labels, those in most mistakes, in class order."""
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diagonal(matrix)
    return sorted(int(k) for k in np.argsort(-wrong, kind="stable")[:limit])
