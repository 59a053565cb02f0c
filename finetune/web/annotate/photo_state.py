"""One photo of a session: all that people and the machine say of it, and its row on the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune.photos.collection import Photo
from finetune.photos.near_duplicates.display_groups import detail_score
from finetune.photos.quality import faults
from finetune.web.annotate.annotations import EXCLUDE, FLAG, SETTLED, SILENCE, Word


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """What a machine thinks of one photo.

    Attributes:
        ranked: Labels with probabilities, the likeliest first.
        uncertainty: In [0, 1]: 0 for a photo whose label is clear to the machine.
        disagreement: Probability that none of the photo's own labels fits; None without labels.
    """

    ranked: tuple[tuple[str, float], ...] = ()
    uncertainty: float | None = None
    disagreement: float | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """A file of the collection and all that is known of it now.

    Attributes:
        id: Names this content of this file in addresses; says nothing of its path.
        path: Path below the root, with ``/``.
        folder_label: The label that its folder gives it, or None.
        digest: Of its content; None until it has been read.
        photo: What the scan found; None until then, and for a file that cannot be opened.
        problem: Why it cannot be opened, or None.
        word: What people said about it.
        advice: What a machine thinks of it.
        group: Key of its group of near-duplicates; None when it is alone.
        asked: Its rank among the photos to ask about next, from 0; None further back.
        changed_at: The board's clock when the row last changed.
    """

    id: str
    path: str
    folder_label: str | None
    digest: str | None = None
    photo: Photo | None = None
    problem: str | None = None
    word: Word = SILENCE
    advice: Advice | None = None
    group: str | None = None
    asked: int | None = None
    changed_at: int = 0

    def labels(self, annotator: str | None) -> tuple[tuple[str, ...], str]:
        """Returns the labels to show, and whose word they are: person, folder or nobody ("").

        A named annotator sees only what that annotator said, so that two people's words stay
        independent of each other.
        """
        if annotator is not None:
            vote = self.word.votes.get(annotator)
            return ((), "") if vote is None else (vote, "person")
        if self.word.labels is not None:
            return self.word.labels, "person"
        return ((), "") if self.folder_label is None else ((self.folder_label,), "folder")

    def row(self, annotator: str | None) -> dict[str, Any]:
        """Returns the entry as a page shows it; what is not known or not so is left out."""
        labels, by = self.labels(annotator)
        row: dict[str, Any] = {"id": self.id, "path": self.path}
        word, photo, advice = self.word, self.photo, self.advice
        if labels:
            row["labels"] = labels
        if by:
            row["by"] = by
        if word.version:
            row["version"] = word.version
        if FLAG in word.decisions:
            row["flag"] = True
        if EXCLUDE in word.decisions:
            row["out"] = True
        if word.crop is not None:
            row["crop"] = [word.crop.center_x, word.crop.center_y, word.crop.side]
            row["cropBy"] = word.crop_by
        if self.asked is not None:
            row["ask"] = self.asked
        if self.group is not None:
            row["group"] = self.group
        if self.problem is not None:
            row["problem"] = self.problem
        if photo is not None:
            row |= {"width": photo.width, "height": photo.height}
            row["detail"] = round(detail_score(photo), 2)
            if photo.taken_at:
                row["taken"] = photo.taken_at
            if found := faults(photo.quality, photo.width, photo.height):
                row["faults"] = found
        if advice is not None:
            if advice.ranked:
                row["ranked"] = [[label, round(share, 3)] for label, share in advice.ranked]
            if advice.uncertainty is not None:
                row["unsure"] = round(advice.uncertainty, 3)
            if advice.disagreement is not None:
                row["doubt"] = round(advice.disagreement, 3)
        votes = word.votes
        if len(votes) > 1 and (annotator is None or annotator in votes):
            row["votes"] = votes
            row["settled"] = SETTLED in word.decisions
        return row
