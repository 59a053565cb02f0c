"""Which labels of photos are doubtful, by models that did not learn from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from finetune.web.annotate.features import Features
from finetune.web.annotate.photo_state import Advice
from finetune.web.annotate.run_predictions import Array, RunAnswers
from finetune.web.annotate.suggestions import TOP, Known

CHECK_EVERY = 15
"""Labels are checked again after so many more of them."""


class Doubts:
    """What models that never saw a labeled photo say of it, as of the latest check."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[tuple[str, ...], Array]] = {}
        self._labels = 0

    def check(
        self,
        features: Features,
        known: Known,
        groups: Sequence[str],
        go_on: Callable[..., None],
    ) -> bool:
        """Asks them anew where there is enough that is new.

        Args:
            features: Of all photos.
            known: Those among them whose label is known.
            groups: Keys of their groups of near-duplicates, which are held out together.
            go_on: Called again and again; what it raises ends the check.

        Returns:
            Whether they were asked.
        """
        count = len(known.labels)
        if abs(count - self._labels) < CHECK_EVERY or not _can_be_held_out(known.labels, groups):
            return False
        self._labels = count
        from finetune.curation.label_errors import find_label_errors

        found = find_label_errors(features.rows[known.places], known.labels, groups, progress=go_on)
        self._said = {
            features.ids[place]: (found.labels, row)
            for place, row in zip(known.places.tolist(), found.probabilities, strict=True)
            if not np.isnan(row).any()
        }
        return True

    def advice(
        self, ids: Sequence[str], own: Sequence[tuple[str, ...]], run: RunAnswers
    ) -> dict[str, Advice]:
        """Returns what they think of the labels that photos have.

        Args:
            ids: The photos.
            own: Their labels; one without any is left out.
            run: Speaks for what was not checked yet.
        """
        told = {}
        for photo_id, labels in zip(ids, own, strict=True):
            if not labels:
                continue
            names, row = self._said.get(photo_id, ((), np.zeros(0)))
            if not names and run.labels:
                names, row = run.labels, run.of(photo_id)
            best = np.argsort(-row, kind="stable")[:TOP].tolist()
            given = sum(float(row[names.index(label)]) for label in labels if label in names)
            told[photo_id] = Advice(
                ranked=tuple((names[i], round(float(row[i]), 2)) for i in best),
                disagreement=round(1 - given, 2) if names else None,
            )
        return told


def _can_be_held_out(labels: Sequence[str], groups: Sequence[str]) -> bool:
    """Returns whether there are two labels, and of one of them two groups of photos or more."""
    pairs = set(zip(labels, groups, strict=True))
    return len(pairs) > len(set(labels)) > 1
