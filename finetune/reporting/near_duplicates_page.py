"""Groups of nearly the same photos as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from finetune.files import write_text
from finetune.photos.near_duplicates.display_groups import GroupedPhoto, NearDuplicateGroup
from finetune.reporting.thumbnails import make_thumbnails

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
ul { display: flex; flex-wrap: wrap; gap: 12px; padding: 0; list-style: none; }
li { width: 200px; overflow-wrap: anywhere; font-size: 13px; }
li img { max-width: 200px; height: 150px; object-fit: contain; background: #eee; width: 100%; }
.best img { outline: 3px solid #2a7; } .kind { font-weight: 600; } .warn { color: #b40; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; }
li img { background: #333; } .warn { color: #f96; } }
"""


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
    parts = [_group(number, group, thumbnails, failed) for number, group in enumerate(groups, 1)]
    content = "\n".join(parts) or "<p>No two photos are nearly the same.</p>"
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>Near-duplicates</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{len(groups):,} groups of near-duplicates in {_text(str(root))}</h1>\n"
        f"{content}\n</body>\n</html>\n"
    )
    return write_text(path, page)


def words(item: GroupedPhoto) -> str:
    """Returns in words what a photo is to the best of its group: ``similar, 4 bits``."""
    names = {
        None: "best",
        "copy": "exact copy",
        "similar": "similar",
        "mirror": "mirror image",
        "burst": "burst",
    }
    bits = item.distance_bits
    if item.kind in (None, "copy") or bits is None:
        return names[item.kind]
    return f"{names[item.kind]}, {bits} bit{'' if bits == 1 else 's'}"


def _group(
    number: int,
    group: NearDuplicateGroup,
    thumbnails: Mapping[str, bytes],
    failed: Mapping[str, str],
) -> str:
    labels = ", ".join(group.labels)
    warning = ' <span class="warn">under different labels</span>' if group.contradicts else ""
    rows = "\n".join(_photo(item, thumbnails, failed) for item in group.photos)
    return f"<h2>{number}. {_text(labels)}{warning}</h2>\n<ul>\n{rows}\n</ul>"


def _photo(item: GroupedPhoto, thumbnails: Mapping[str, bytes], failed: Mapping[str, str]) -> str:
    photo = item.photo
    if photo.path in thumbnails:
        data = base64.b64encode(thumbnails[photo.path]).decode()
        image = f'<img src="data:image/jpeg;base64,{data}" alt="{_text(photo.path)}">'
    else:
        image = f"<em>{_text(failed.get(photo.path, 'cannot be opened'))}</em>"
    best = ' class="best"' if item.kind is None else ""
    label = f"<br>{_text(', '.join(photo.labels))}" if photo.labels else ""
    return (
        f'<li{best}>{image}<br><span class="kind">{words(item)}</span><br>{_text(photo.path)}'
        f"<br>{photo.width} x {photo.height}{label}</li>"
    )


def _text(text: str) -> str:
    # A file name that is no UTF-8 holds lone surrogates, which no file can.
    return escape(text.encode("utf-8", "replace").decode())
