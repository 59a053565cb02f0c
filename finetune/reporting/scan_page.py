"""HTML page of the issues found by a scan, with thumbnails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from finetune.photos.collection import Collection
from finetune.photos.issues import Finding, Item, LabelRow
from finetune.reporting.gallery import make_thumbnails
from finetune.reporting.photo_page import picture, plain, write_html

MOST_ITEMS = 60
"""Maximum number of items shown per issue; the others are counted."""

MOST_PICTURES = 12
"""Maximum number of thumbnails per item."""


def write_contact_sheet(
    path: Path,
    collection: Collection,
    rows: Sequence[LabelRow],
    findings: Sequence[Finding],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the issues of a collection as one HTML file with thumbnails, and returns its path.

    Args:
        path: The file to write.
        collection: The scanned photos.
        rows: Rows of the table of labels.
        findings: Issues; see `finetune.photos.issues.find_trouble`.
        progress: Called as ``progress(done, total)`` for thumbnails.

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
    thumbnails, _ = make_thumbnails(collection.root, sorted(shown), progress=progress)
    pictures = {name: picture(jpeg, "") for name, jpeg in thumbnails.items()}
    title = f"Issues in {collection.root.resolve().name}"
    sections = "".join(_section(finding, pictures) for finding in findings)
    if not findings:
        sections = "<section><p>Nothing to report.</p></section>"
    return write_html(path, title, _table(rows) + sections)


def _table(rows: Sequence[LabelRow]) -> str:
    head = "".join(
        f"<th>{name}</th>"
        for name in ("label", "photos", "groups", "distinct scenes", "bad", "shorter side")
    )
    body = "".join(
        f"<tr><td>{plain(row.label) or '<em>no label</em>'}</td><td>{row.photos:,}</td>"
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
        body += '<ul class="lines">' + "".join(_line(item) for item in listed) + "</ul>"
    rest = len(finding.items) - MOST_ITEMS
    more = f'<p class="more">and {rest:,} more</p>' if rest > 0 else ""
    return (
        f'<section id="{finding.kind}"><h2>{plain(finding.title)}</h2>'
        f'<p class="advice">{plain(finding.advice)}</p>{body}{more}</section>'
    )


def _group(item: Item, pictures: Mapping[str, str]) -> str:
    note = f'<div class="note">{plain(item.note)}</div>' if item.note else ""
    figures = "".join(_figure(path, pictures) for path in item.paths[:MOST_PICTURES])
    rest = len(item.paths) - MOST_PICTURES
    more = f'<div class="more">and {rest:,} more</div>' if rest > 0 else ""
    return f'<div class="item">{note}{figures}{more}</div>'


def _figure(path: str, pictures: Mapping[str, str], note: str = "") -> str:
    advice = f'<br><span class="advice">{plain(note)}</span>' if note else ""
    image = pictures.get(path, "")
    return f"<figure>{image}<figcaption>{plain(path)}{advice}</figcaption></figure>"


def _line(item: Item) -> str:
    parts = [plain(text) for text in (*item.paths, item.note) if text]
    return f"<li>{': '.join(parts)}</li>"
