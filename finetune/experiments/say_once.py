"""Several trainings of one kind say the same notes; once is enough."""

from __future__ import annotations

import re

from finetune.training.events import Callback, Event, Note


def say_once(callback: Callback, *, always: tuple[str, ...] = ()) -> Callback:
    """Returns a listener that passes on notes which differ by more than their numbers.

    Args:
        callback: Who is told.
        always: How notes begin that are passed on each time.
    """
    said: set[str] = set()

    def tell(event: Event) -> None:
        if isinstance(event, Note) and not event.text.startswith(always):
            text = re.sub(r"\d+", "0", event.text)
            if text in said:
                return
            said.add(text)
        callback(event)

    return tell
