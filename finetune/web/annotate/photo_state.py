"""State of one photo of a session, and its row for the page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from finetune.photos.catalog.annotations import (
    CONFIRMED,
    EXCLUDE,
    FLAG,
    NO_ANNOTATIONS,
    RESOLVED,
    STARS,
    Annotations,
)
from finetune.photos.collection import Photo
from finetune.photos.quality import faults


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestions:
    """Model output for one photo.

    Attributes:
        ranked: Labels with probabilities, the likeliest first; "" for none of the labels.
        share: Calibrated share of such photos that have the first label; None: unknown.
        unlike: Whether the photo is unlike all labeled ones.
        uncertainty: In [0, 1]; 0 if the model is certain.
        disagreement: Probability that none of the photo's labels is right; None without labels.
        status: Status of the run's prediction, or None.
    """

    ranked: tuple[tuple[str, float], ...] = ()
    share: float | None = None
    unlike: bool = False
    uncertainty: float | None = None
    disagreement: float | None = None
    status: str | None = None


@dataclass(frozen=True, kw_only=True)
class CohortOffer:
    """Photos whose labels are safe to accept together.

    Attributes:
        number: Distinguishes offers.
        ids: The surest first.
        labels: Probable label of each; "" for none of the labels.
    """

    number: int
    ids: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(slots=True, kw_only=True, eq=False)
class PhotoState:
    """State of one file of the collection.

    Attributes:
        id: Identifies the file and its content in addresses without revealing the path.
        path: Path below the root, with ``/``.
        folder_label: Label from its folder, or None.
        digest: Digest of its content; None until it has been read.
        photo: Result of the scan; None before the scan and for unreadable files.
        problem: Reason why it cannot be opened, or None.
        group: Key of its near-duplicate group, or None.
        rank: Position among the photos to label next, from 0, or None.
        review: Whether somebody asked to review it.
        changed_at: Clock of the index at the latest change.
    """

    id: str
    path: str
    folder_label: str | None
    digest: str | None = None
    photo: Photo | None = None
    problem: str | None = None
    annotations: Annotations = NO_ANNOTATIONS
    suggestions: Suggestions | None = None
    group: str | None = None
    rank: int | None = None
    review: bool = False
    changed_at: int = 0

    def labels(self, annotator: str | None) -> tuple[tuple[str, ...], str]:
        """Returns the labels to show and their source: "person", "folder" or "" for none.

        A named annotator sees only their own labels, so that annotators stay independent.
        """
        if annotator is not None:
            vote = self.annotations.votes.get(annotator)
            return ((), "") if vote is None else (vote, "person")
        if self.annotations.labels is not None:
            return self.annotations.labels, "person"
        return ((), "") if self.folder_label is None else ((self.folder_label,), "folder")

    def row(self, annotator: str | None) -> dict[str, Any]:
        """Returns the JSON row for the page; unknown and false values are left out."""
        labels, source = self.labels(annotator)
        annotations, photo, model = self.annotations, self.photo, self.suggestions or Suggestions()
        crop, votes = annotations.crop, annotations.votes
        confirmed = annotations.decisions.get(CONFIRMED)
        shows_votes = len(votes) > 1 and (annotator is None or annotator in votes)
        row: dict[str, Any] = {
            "id": self.id,
            "path": self.path,
            "labels": labels or None,
            "source": source or None,
            "version": annotations.version_for(annotator) or None,
            "flag": FLAG in annotations.decisions or None,
            "rejected": EXCLUDE in annotations.decisions or None,
            "crop": None if crop is None else [crop.center_x, crop.center_y, crop.side],
            "cropSource": None if crop is None else annotations.crop_source,
            "rank": self.rank,
            "review": self.review or None,
            "group": self.group,
            "problem": self.problem,
            "ranked": [[label, round(p, 3)] for label, p in model.ranked] or None,
            "share": model.share,
            "unlike": model.unlike or None,
            "uncertainty": None if model.uncertainty is None else round(model.uncertainty, 3),
            "disagreement": None if model.disagreement is None else round(model.disagreement, 3),
            "status": model.status,
            "stars": int(annotations.decisions.get(STARS, 0)) or None,
            "confirmed": confirmed == json.dumps(sorted(labels), ensure_ascii=False) or None,
            "votes": votes if shows_votes else None,
            "resolved": RESOLVED in annotations.decisions if shows_votes else None,
        }
        if photo is not None:
            row |= {
                "width": photo.width,
                "height": photo.height,
                "taken": photo.taken_at or None,
                "camera": photo.camera,
                "sharpness": None if photo.quality is None else round(photo.quality.sharpness, 4),
                "faults": faults(photo.quality, photo.width, photo.height) or None,
            }
        return {name: value for name, value in row.items() if value is not None}


def labels_of(state: PhotoState) -> set[str]:
    """Returns all labels of a photo: of its folder unless it has others, and votes included."""
    annotations = state.annotations
    labels = annotations.labels
    if labels is None:
        labels = () if state.folder_label is None else (state.folder_label,)
    return {*labels, *(label for vote in annotations.votes.values() for label in vote)}
