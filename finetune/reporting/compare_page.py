"""A comparison as one HTML file, offline."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path

from finetune.reporting import charts, formatting
from finetune.reporting.compare import Comparison, Contender
from finetune.reporting.gallery import make_thumbnails
from finetune.reporting.page import write_page
from finetune.reporting.run_record import setting_text

MAX_PHOTOS = 300
"""Photos in the page, shared among the pairs."""


def write_comparison(
    path: Path,
    comparison: Comparison,
    runs: Sequence[Contender],
    *,
    photos_root: Path | None = None,
    max_photos: int = MAX_PHOTOS,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a comparison's page and returns `path`.

    Args:
        path: The HTML file.
        comparison: Of `finetune.reporting.compare.compare`.
        runs: What was compared, for the learning curves.
        photos_root: Root of the collection that the first run's paths are below; None: no photos.
        max_photos: Most photos in the page.
        progress: Called as ``progress(done, total)`` while thumbnails are made.

    Raises:
        MissingExtra: Jinja2 or plotly is not installed.
        StorageError: The file could not be written; an older one is intact.
    """
    sides = [side for pair in comparison.pairs for side in (pair.only_first, pair.only_second)]
    share = -(-max_photos // max(1, len(sides)))
    wanted = list(dict.fromkeys(row.path for side in sides for row in side[:share]))[:max_photos]
    thumbnails = make_thumbnails(photos_root, wanted, progress=progress)[0] if photos_root else {}
    with_curves = {run.name: run.record.epochs for run in runs if run.record.epochs}
    return write_page(
        path,
        "compare.html.j2",
        scripts=("charts.js", "photos.js", "compare.js"),
        data={
            "labels": [],
            "photos": [],
            "overlays": {},
            "thumbnails": {p: base64.b64encode(b).decode() for p, b in thumbnails.items()},
            "charts": {"curves": charts.overlaid_curves(with_curves)} if with_curves else {},
            "pairs": [
                {
                    "names": [pair.first, pair.second],
                    "sides": [
                        [
                            [
                                d.path,
                                d.label,
                                d.first,
                                d.first_probability,
                                d.second,
                                d.second_probability,
                            ]
                            for d in side
                        ]
                        for side in (pair.only_first, pair.only_second)
                    ],
                }
                for pair in comparison.pairs
            ],
        },
        comparison=comparison,
        has_curves=bool(with_curves),
        percent=formatting.percent,
        interval=formatting.interval,
        count=formatting.count,
        number=formatting.number,
        duration=formatting.duration,
        setting_text=setting_text,
    )
