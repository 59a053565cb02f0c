"""Pictures with captions as one HTML page that needs nothing else, offline too."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from finetune.files import write_text

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
ul { display: flex; flex-wrap: wrap; gap: 14px; padding: 0; list-style: none; }
li { max-width: 100%; overflow-wrap: anywhere; font-size: 13px; }
figure { margin: 0; width: min-content; min-width: 11rem; }
.pictures { display: flex; gap: 4px; align-items: flex-start; }
img { display: block; height: 170px; background: #8883; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; } }
@media print { li { break-inside: avoid; } }
"""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Pictures side by side over a caption.

    Attributes:
        pictures: JPEG files, each with its text alternative.
        caption: Lines of plain text.
    """

    pictures: tuple[tuple[bytes, str], ...]
    caption: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """Figures under a heading."""

    heading: str
    figures: tuple[Figure, ...]


def write_picture_page(path: Path, title: str, sections: Sequence[Section]) -> Path:
    """Writes figures by sections as one HTML file, and returns its path.

    Raises:
        StorageError: The file could not be written; an older one is intact.
    """
    body = "\n".join(_section(section) for section in sections)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n{body}\n</body>\n</html>\n"
    )
    return write_text(path, page)


def _section(section: Section) -> str:
    figures = "\n".join(_figure(figure) for figure in section.figures)
    return f"<section>\n<h2>{_text(section.heading)}</h2>\n<ul>\n{figures}\n</ul>\n</section>"


def _figure(figure: Figure) -> str:
    pictures = "".join(
        f'<img src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}" alt="{_text(words)}">'
        for jpeg, words in figure.pictures
    )
    caption = "<br>".join(_text(line) for line in figure.caption)
    return (
        f'<li><figure><div class="pictures">{pictures}</div>'
        f"<figcaption>{caption}</figcaption></figure></li>"
    )


def _text(text: str) -> str:
    # A file name that is no UTF-8 holds lone surrogates, which no file can.
    return escape(text.encode("utf-8", "replace").decode())
