"""Labels that a session offers, in display order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from finetune.photos.catalog.annotations import LabelStyle
from finetune.photos.labels import nfc


class LabelList:
    """Labels of a session: offered ones, pinned ones, and those that a photo has.

    Args:
        offered: Labels to offer from the start, in the order of their keys.

    Attributes:
        styles: Display of the labels that have one.
        uses: Number of photos with each label, votes included.
    """

    def __init__(self, offered: Sequence[str] = ()) -> None:
        self._offered = tuple(nfc(label) for label in offered)
        # All labels ever seen in the session, in the order in which they appeared.
        self._known: dict[str, None] = dict.fromkeys(self._offered)
        self.uses: Counter[str] = Counter()
        self.styles: Mapping[str, LabelStyle] = {}

    def add(self, labels: Iterable[str]) -> None:
        """Adds labels after those that are known; they are shown while a photo has them."""
        for label in labels:
            self._known.setdefault(label)

    def withdraw(self, label: str) -> None:
        """Offers a label no longer unless a photo has it."""
        self._offered = tuple(name for name in self._offered if name != label)

    def in_order(self) -> tuple[str, ...]:
        """Returns the labels in display order: pinned ones first."""
        styles, plain = self.styles, LabelStyle()
        kept = {label for label, style in styles.items() if style.pinned}.union(self._offered)
        order = {label: place for place, label in enumerate(self._known)}

        def place(label: str) -> tuple[bool, float, int]:
            style = styles.get(label, plain)
            position = float("inf") if style.position is None else style.position
            return (not style.pinned, position, order[label])

        shown = (label for label in self._known if self.uses[label] > 0 or label in kept)
        return tuple(sorted(shown, key=place))
