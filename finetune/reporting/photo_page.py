"""Offline HTML pages of photos: near-duplicates, crops, similar photos, issues of a scan."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image, ImageDraw

from finetune.errors import DecodeError
from finetune.files import write_atomically, write_text
from finetune.formatting import count, percent
from finetune.photos.collection import Collection, Photo
from finetune.photos.crops import Crop, crop_and_resize
from finetune.photos.decode.decoder import decode_photo
from finetune.photos.issues import Issue, Item, LabelRow
from finetune.photos.near_duplicates.groups import GroupedPhoto, NearDuplicateGroup
from finetune.reporting.gallery import make_thumbnails
from finetune.reporting.page import ANNOTATE_URL

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: light-dark(#666, #aaa); }
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
ul { display: flex; flex-wrap: wrap; gap: 14px; padding: 0; list-style: none; }
ul.lines { display: block; border-top: 1px solid var(--line); padding: .6rem 0 0 1.2rem;
           list-style: disc; }
li { max-width: 100%; overflow-wrap: anywhere; font-size: 13px; }
figure { margin: 0; width: min-content; min-width: 11rem; }
figcaption { font-size: 12px; overflow-wrap: anywhere; }
.pictures { display: flex; flex-wrap: wrap; gap: 4px; align-items: flex-start; }
img { display: block; height: 170px; background: #8883; }
.best img { outline: 3px solid #2a7; } .warn { color: #b40; }
a { color: light-dark(#0a58a8, #7ab8f5); }
table { border-collapse: collapse; }
th, td { padding: .2rem .9rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
.advice, .note, .more { color: var(--soft); max-width: 48rem; } .note { flex-basis: 100%; }
.item { display: flex; flex-wrap: wrap; gap: .6rem; padding: .6rem 0;
        border-top: 1px solid var(--line); }
.item figure { width: 160px; min-width: 0; }
.item img { max-width: 160px; height: auto; max-height: 160px; border-radius: 4px; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; }
.warn { color: #f96; } }
@media (max-width: 32rem) { figure { width: auto; }
img { max-width: 100%; height: auto; max-height: 170px; } }
@media print { li { break-inside: avoid; } }
"""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Pictures side by side over a caption.

    Attributes:
        pictures: JPEG files, each with its text alternative.
        caption: Lines of plain text.
        best: Whether the figure is highlighted as the best of its section.
        annotated: Path of the photo that a link opens in ``finetune annotate``; None: no link.
    """

    pictures: tuple[tuple[bytes, str], ...]
    caption: tuple[str, ...]
    best: bool = False
    annotated: str | None = None


@dataclass(frozen=True, kw_only=True)
class Section:
    """Figures under a heading, which may have a warning."""

    heading: str
    figures: tuple[Figure, ...]
    warning: str = ""


def write_picture_page(
    path: Path,
    title: str,
    sections: Sequence[Section],
    *,
    heading: str | None = None,
    note: str = "",
) -> Path:
    """Writes figures by sections below a note as one HTML file, and returns its path.

    Raises:
        StorageError: The file could not be written; an older one is intact.
    """
    body = "\n".join(map(_section, sections))
    if note:
        body = f'<p class="advice">{_escape(note)}</p>\n{body}'
    return _write_html(path, title, body, heading=heading)


def _write_html(path: Path, title: str, body: str, *, heading: str | None = None) -> Path:
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<main>\n<h1>{_escape(heading or title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )
    return write_text(path, page)


def _escape(text: str) -> str:
    """Returns text escaped for HTML; lone surrogates of undecodable file names become ``?``."""
    return escape(text.encode("utf-8", "replace").decode())


def _image(jpeg: bytes, alt: str) -> str:
    data = base64.b64encode(jpeg).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{_escape(alt)}">'


def _section(section: Section) -> str:
    figures = "\n".join(map(_figure, section.figures))
    warning = f' <span class="warn">{_escape(section.warning)}</span>' if section.warning else ""
    return (
        f"<section>\n<h2>{_escape(section.heading)}{warning}</h2>\n<ul>\n{figures}\n</ul>\n"
        "</section>"
    )


def _figure(figure: Figure) -> str:
    best = ' class="best"' if figure.best else ""
    pictures = "".join(_image(jpeg, alt) for jpeg, alt in figure.pictures)
    caption = "<br>".join(_escape(line) for line in figure.caption)
    if figure.annotated is not None:
        address = ANNOTATE_URL + quote(figure.annotated, safe="", errors="surrogateescape")
        caption += f'<br><a href="{address}" target="_blank" rel="noopener">Open in annotate</a>'
    return (
        f'<li{best}><figure><div class="pictures">{pictures}</div>'
        f"<figcaption>{caption}</figcaption></figure></li>"
    )


def write_near_duplicates_page(
    path: Path,
    root: Path,
    groups: Sequence[NearDuplicateGroup],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes groups with thumbnails, the best photo of each first, and returns `path`.

    Raises:
        StorageError: The file could not be written; an older one is intact.
    """
    paths = [item.photo.path for group in groups for item in group.photos]
    thumbnails, failed = make_thumbnails(root, paths, progress=progress)

    def figure(item: GroupedPhoto) -> Figure:
        photo = item.photo
        size = f"{photo.width} x {photo.height} pixels"
        if photo.quality is not None:
            size += f", sharpness {photo.quality.sharpness:.2f}"
        lines: tuple[str, ...] = (relation_text(item), photo.path, size)
        if photo.labels:
            lines += (", ".join(photo.labels),)
        jpeg = thumbnails.get(photo.path)
        return Figure(
            pictures=((jpeg, photo.path),) if jpeg else (),
            caption=lines if jpeg else (failed.get(photo.path, "cannot be opened"), *lines),
            best=item.kind is None,
        )

    sections = [
        Section(
            heading=f"{number}. {', '.join(group.labels) or 'no label'}",
            warning="under different labels" if group.contradicts else "",
            figures=tuple(map(figure, group.photos)),
        )
        for number, group in enumerate(groups, 1)
    ]
    found = f"{count(len(groups), 'group')} of near-duplicates" if groups else "No near-duplicates"
    note = "The best of a group has the most detail: its sharpness times its shorter side."
    return write_picture_page(
        path,
        "Near-duplicates",
        sections,
        heading=f"{found} in {root}",
        note=note if groups else "",
    )


def relation_text(item: GroupedPhoto) -> str:
    """Returns the relation of a photo to the best one of its group: ``similar, 4 bits``."""
    names = {
        None: "best",
        "name": "the same file",
        "copy": "exact copy",
        "similar": "similar",
        "mirror": "mirror image",
        "burst": "burst",
    }
    bits = item.distance_bits
    if item.kind in (None, "name", "copy") or bits is None:
        return names[item.kind]
    return f"{names[item.kind]}, {bits} bit{'' if bits == 1 else 's'}"


HEIGHT_PIXELS = 170
_PNG_ROWS = 60
_GAP = 10


def before_and_after(path: Path, crop: Crop) -> tuple[Image.Image, Image.Image]:
    """Returns a small copy of a photo with its crop drawn on it, and the crop.

    Raises:
        DecodeError: The photo cannot be opened.
    """
    image = decode_photo(path, min_side_pixels=2 * HEIGHT_PIXELS)
    after = Image.fromarray(crop_and_resize(image, size=HEIGHT_PIXELS, crop=crop))
    before = Image.fromarray(image)
    width = max(1, round(before.width * HEIGHT_PIXELS / before.height))
    before = before.resize((width, HEIGHT_PIXELS), Image.Resampling.BICUBIC, reducing_gap=2.0)
    pen = ImageDraw.Draw(before)
    box = tuple(round(value) for value in crop.box(width, HEIGHT_PIXELS))
    # Dark around light is visible on any background.
    pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline="black", width=4)
    pen.rectangle((box[0] + 1, box[1] + 1, box[2] - 2, box[3] - 2), outline="yellow", width=2)
    return before, after


def crop_doubt(crop: Crop) -> float:
    """Returns how doubtful a crop is: larger where it leaves the photo, or is very small.

    A square as large as the photo's shorter side may cut off what is longer, such as wings; a very
    small one may show a part of the subject.
    """
    beyond = max(0.0, crop.side - 0.98) * 10
    small = max(0.0, 0.25 - crop.side) * 4
    off = max(abs(crop.center_x - 0.5), abs(crop.center_y - 0.5))
    return beyond + small + off


CROPS_NOTE = (
    "The most doubtful crops first: those as large as the photo, which may cut off wings or a "
    "tail, very small ones, and those far from the middle. To change one, start finetune annotate, "
    "open the photo there by its link, and press C."
)


def crop_figures(collection: Collection, photos: Sequence[Photo]) -> list[Figure]:
    """Returns a figure of each photo that has a crop and can be opened."""
    figures = []
    for photo in photos:
        if photo.crop is None:
            continue
        try:
            pair = before_and_after(collection.path_of(photo), photo.crop)
        except DecodeError:
            continue
        alts = (f"{photo.path} with its crop", f"the crop of {photo.path}")
        figures.append(
            Figure(
                pictures=tuple(
                    (_jpeg(image), text) for image, text in zip(pair, alts, strict=True)
                ),
                caption=(photo.path, f"{percent(photo.crop.side, 0)} of the shorter side"),
                annotated=photo.path,
            )
        )
    return figures


def write_crop_png(path: Path, collection: Collection, photos: Sequence[Photo]) -> Path:
    """Writes photos and their crops as one PNG, at most 120 in two columns, and returns its path.

    Raises:
        StorageError: The file could not be written.
    """
    pairs: list[tuple[Image.Image, Image.Image]] = []
    for photo in photos:
        if photo.crop is None or len(pairs) == 2 * _PNG_ROWS:
            continue
        try:
            pairs.append(before_and_after(collection.path_of(photo), photo.crop))
        except DecodeError:
            continue
    columns = 2 if len(pairs) > 1 else 1
    wide = max((before.width for before, _ in pairs), default=HEIGHT_PIXELS)
    cell = (wide + HEIGHT_PIXELS + 3 * _GAP, HEIGHT_PIXELS + _GAP)
    rows = max(1, -(-len(pairs) // columns))
    sheet = Image.new("RGB", (columns * cell[0], rows * cell[1] + _GAP), "white")
    for number, (before, after) in enumerate(pairs):
        left = number % columns * cell[0] + _GAP
        top = number // columns * cell[1] + _GAP
        sheet.paste(before, (left, top))
        sheet.paste(after, (left + wide + _GAP, top))
    return write_atomically(path, lambda file: sheet.save(file, "PNG"))


def _jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=80)
    return content.getvalue()


MOST_ITEMS = 60
"""Maximum number of items shown per issue; the others are counted."""

MOST_PICTURES = 12
"""Maximum number of thumbnails per item."""


def write_contact_sheet(
    path: Path,
    collection: Collection,
    rows: Sequence[LabelRow],
    issues: Sequence[Issue],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes the issues of a collection as one HTML file with thumbnails, and returns its path.

    Args:
        path: The file to write.
        collection: The scanned photos.
        rows: Rows of the table of labels.
        issues: Issues; see `finetune.photos.issues.find_issues`.
        progress: Called as ``progress(done, total)`` for thumbnails.

    Raises:
        StorageError: The file cannot be written.
    """
    shown = {
        name
        for issue in issues
        if issue.kind != "unreadable"
        for item in issue.items[:MOST_ITEMS]
        for name in item.paths[:MOST_PICTURES]
    }
    thumbnails, _ = make_thumbnails(collection.root, sorted(shown), progress=progress)
    pictures = {name: _image(jpeg, "") for name, jpeg in thumbnails.items()}
    title = f"Issues in {collection.root.resolve().name}"
    sections = "".join(_issue_section(issue, pictures) for issue in issues)
    if not issues:
        sections = "<section><p>Nothing to report.</p></section>"
    return _write_html(path, title, _label_table(rows) + sections)


def _label_table(rows: Sequence[LabelRow]) -> str:
    head = "".join(
        f"<th>{name}</th>"
        for name in ("label", "photos", "groups", "distinct scenes", "bad", "shorter side")
    )
    body = "".join(
        f"<tr><td>{_escape(row.label) or '<em>no label</em>'}</td><td>{row.photos:,}</td>"
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


def _issue_section(issue: Issue, pictures: Mapping[str, str]) -> str:
    shown = issue.items[:MOST_ITEMS]
    # Single photos share one row; groups have one each; what has no picture is a list.
    single = [item for item in shown if len(item.paths) == 1 and item.paths[0] in pictures]
    groups = [item for item in shown if len(item.paths) > 1]
    listed = [item for item in shown if item not in single and item not in groups]
    body = "".join(_issue_group(item, pictures) for item in groups)
    if single:
        figures = "".join(_issue_figure(item.paths[0], pictures, item.note) for item in single)
        body += f'<div class="item">{figures}</div>'
    if listed:
        body += '<ul class="lines">' + "".join(_issue_line(item) for item in listed) + "</ul>"
    rest = len(issue.items) - MOST_ITEMS
    more = f'<p class="more">and {rest:,} more</p>' if rest > 0 else ""
    return (
        f'<section id="{issue.kind}"><h2>{_escape(issue.title)}</h2>'
        f'<p class="advice">{_escape(issue.advice)}</p>{body}{more}</section>'
    )


def _issue_group(item: Item, pictures: Mapping[str, str]) -> str:
    note = f'<div class="note">{_escape(item.note)}</div>' if item.note else ""
    figures = "".join(_issue_figure(path, pictures) for path in item.paths[:MOST_PICTURES])
    rest = len(item.paths) - MOST_PICTURES
    more = f'<div class="more">and {rest:,} more</div>' if rest > 0 else ""
    return f'<div class="item">{note}{figures}{more}</div>'


def _issue_figure(path: str, pictures: Mapping[str, str], note: str = "") -> str:
    advice = f'<br><span class="advice">{_escape(note)}</span>' if note else ""
    image = pictures.get(path, "")
    return f"<figure>{image}<figcaption>{_escape(path)}{advice}</figcaption></figure>"


def _issue_line(item: Item) -> str:
    parts = [_escape(text) for text in (*item.paths, item.note) if text]
    return f"<li>{': '.join(parts)}</li>"
