"""A page of findings with small pictures: one HTML file that needs nothing else, offline too."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from finetune.errors import DecodeError
from finetune.files import write_text
from finetune.photos.collection import Collection
from finetune.photos.decode.decoder import decode_photo
from finetune.photos.decode.pool import usable_cores
from finetune.photos.issues import Finding, Item, LabelRow

THUMBNAIL_PIXELS = 160
"""Longer side of a picture."""

MOST_ITEMS = 60
"""Items shown of each finding; the rest is counted."""

MOST_PICTURES = 12
"""Pictures shown of each item."""

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; }
th, td { padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
section { margin-top: 2.5rem; }
ul { border-top: 1px solid var(--line); padding: .6rem 0 0 1.2rem; }
.advice, .note, .more { color: var(--soft); }
.item { display: flex; flex-wrap: wrap; gap: .6rem; padding: .6rem 0;
        border-top: 1px solid var(--line); }
.note { flex-basis: 100%; }
figure { margin: 0; width: 160px; }
figure img { display: block; max-width: 160px; max-height: 160px; border-radius: 4px; }
figcaption { font-size: 12px; overflow-wrap: anywhere; }
"""


def write_contact_sheet(
    path: Path,
    collection: Collection,
    rows: Sequence[LabelRow],
    findings: Sequence[Finding],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the findings of a collection as one HTML file with pictures, and returns its path.

    Args:
        path: The file to write.
        collection: What a scan found.
        rows: The table of labels.
        findings: What `finetune.photos.issues.find_trouble` returned.
        progress: Called with how many of the pictures are made, and of how many.

    Raises:
        StorageError: The file cannot be written.
    """
    shown = {
        name
        for finding in findings
        if finding.kind != "unreadable"
        for item in finding.items[:MOST_ITEMS]
        for name in item.paths[:MOST_PICTURES]
    }
    pictures = _thumbnails(collection.root, sorted(shown), progress)
    title = f"Findings in {collection.root.resolve().name}"
    sections = "".join(_section(finding, pictures) for finding in findings)
    if not findings:
        sections = "<section><p>Nothing to report.</p></section>"
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{_table(rows)}{sections}</body></html>\n"
    )
    return write_text(path, page)


def _table(rows: Sequence[LabelRow]) -> str:
    head = "".join(
        f"<th>{name}</th>"
        for name in ("label", "photos", "groups", "distinct scenes", "bad", "shorter side")
    )
    body = "".join(
        f"<tr><td>{html.escape(row.label) or '<em>no label</em>'}</td><td>{row.photos:,}</td>"
        f"<td>{row.groups:,}</td><td>{row.scenes:,}</td><td>{row.bad:,}</td>"
        f"<td>{side_range(row)}</td></tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def side_range(row: LabelRow) -> str:
    """Returns the shorter sides of a label's photos: smallest, median and largest, in pixels."""
    if row.smallest_side is None:
        return "-"
    if row.smallest_side == row.largest_side:
        return f"{row.smallest_side} px"
    return f"{row.smallest_side} - {row.median_side} - {row.largest_side} px"


def _section(finding: Finding, pictures: Mapping[str, str]) -> str:
    shown = finding.items[:MOST_ITEMS]
    # Single photos share one row; groups have one each; what has no picture is a list.
    single = [item for item in shown if len(item.paths) == 1 and item.paths[0] in pictures]
    groups = [item for item in shown if len(item.paths) > 1]
    listed = [item for item in shown if item not in single and item not in groups]
    body = "".join(_group(item, pictures) for item in groups)
    if single:
        figures = "".join(_figure(item.paths[0], pictures, item.note) for item in single)
        body += f'<div class="item">{figures}</div>'
    if listed:
        body += f"<ul>{''.join(_line(item) for item in listed)}</ul>"
    rest = len(finding.items) - MOST_ITEMS
    more = f'<p class="more">and {rest:,} more</p>' if rest > 0 else ""
    return (
        f'<section id="{finding.kind}"><h2>{html.escape(finding.title)}</h2>'
        f'<p class="advice">{html.escape(finding.advice)}</p>{body}{more}</section>'
    )


def _group(item: Item, pictures: Mapping[str, str]) -> str:
    note = f'<div class="note">{html.escape(item.note)}</div>' if item.note else ""
    figures = "".join(_figure(path, pictures) for path in item.paths[:MOST_PICTURES])
    rest = len(item.paths) - MOST_PICTURES
    more = f'<div class="more">and {rest:,} more</div>' if rest > 0 else ""
    return f'<div class="item">{note}{figures}{more}</div>'


def _figure(path: str, pictures: Mapping[str, str], note: str = "") -> str:
    picture = pictures.get(path)
    image = f'<img src="data:image/jpeg;base64,{picture}" alt="">' if picture else ""
    said = f'<br><span class="advice">{html.escape(note)}</span>' if note else ""
    return f"<figure>{image}<figcaption>{html.escape(path)}{said}</figcaption></figure>"


def _line(item: Item) -> str:
    parts = [html.escape(text) for text in (*item.paths, item.note) if text]
    return f"<li>{': '.join(parts)}</li>"


def _thumbnails(
    root: Path, paths: Sequence[str], progress: Callable[[int, int], None] | None
) -> dict[str, str]:
    """Returns small JPEGs in base64, by path; a photo that has since become unreadable has none."""
    made = {}
    with ThreadPoolExecutor(usable_cores()) as pool:
        results = pool.map(lambda path: _thumbnail(root / path), paths)
        for done, (path, picture) in enumerate(zip(paths, results, strict=True), start=1):
            if picture is not None:
                made[path] = picture
            if progress is not None:
                progress(done, len(paths))
    return made


def _thumbnail(path: Path) -> str | None:
    try:
        image = Image.fromarray(decode_photo(path, min_side_pixels=THUMBNAIL_PIXELS))
    except DecodeError:
        return None
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=78)
    return base64.b64encode(file.getvalue()).decode()
