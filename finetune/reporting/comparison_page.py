"""HTML page of a comparison: curves, changes by label, and photos through all runs."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path

from finetune.messages import text
from finetune.reporting import charts
from finetune.reporting.comparison import Comparison, Contender
from finetune.reporting.gallery import make_thumbnails
from finetune.reporting.page import write_page
from finetune.reporting.run_record import setting_text

MAX_PHOTOS = 300
"""Default maximum number of photos in the page, shared among the pairs."""


def write_comparison(
    path: Path,
    comparison: Comparison,
    runs: Sequence[Contender],
    *,
    photos_root: Path | None = None,
    max_photos: int = MAX_PHOTOS,
    chosen: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the comparison as an offline HTML page and returns `path`.

    Args:
        path: The HTML file.
        comparison: Result of `compare`.
        runs: Compared runs, for the learning curves.
        photos_root: Root folder of the first run's paths; None omits the photos.
        max_photos: Maximum number of photos in the page.
        chosen: Whether the followed photos were chosen by a person.
        progress: Called as ``progress(done, total)`` while thumbnails are made.

    Raises:
        StorageError: The file could not be written; an older one is intact.
    """
    followed = [photo.path for photo in comparison.followed]
    sides = [side for pair in comparison.pairs for side in (pair.only_first, pair.only_second)]
    share = -(-max_photos // max(1, len(sides)))
    ordered = [*followed, *(row.path for side in sides for row in side[:share])]
    wanted = list(dict.fromkeys(ordered))[:max_photos]
    thumbnails = make_thumbnails(photos_root, wanted, progress=progress)[0] if photos_root else {}
    with_curves = {
        run.name: run.record.epochs for run in runs if run.record.epochs and not run.record.fitted
    }
    # The axis has the score of each run's task, which differs between one and several labels.
    first, *others = dict.fromkeys(run.record.task.score_title for run in runs)
    score = text(first)
    for name in others:
        score = text("{first} or {second}", first=score, second=text(name).lower())
    return write_page(
        path,
        "compare.html.j2",
        scripts=("base.js", "photos.js", "compare.js"),
        data={
            "labels": [],
            "photos": [],
            "overlays": {},
            "thumbnails": {p: base64.b64encode(b).decode() for p, b in thumbnails.items()},
            "runs": [row.name for row in comparison.rows],
            "followed": [
                [photo.path, photo.truth, photo.answers, photo.correct]
                for photo in comparison.followed
            ],
            "pairs": [
                {
                    "names": [pair.first, pair.second],
                    "sides": [
                        [list(astuple(row)) for row in side]
                        for side in (pair.only_first, pair.only_second)
                    ],
                }
                for pair in comparison.pairs
            ],
        },
        charts=charts.run_curves(with_curves, score) if with_curves else {},
        comparison=comparison,
        score=score,
        chosen=chosen,
        followed_right=[
            sum(photo.correct[k] for photo in comparison.followed)
            for k in range(len(comparison.rows))
        ],
        ranked=any(row.second is not None for row in comparison.rows),
        with_curves=list(with_curves),
        setting_text=setting_text,
    )
