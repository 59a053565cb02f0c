"""``finetune scan``: labels and problems of the photos in a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from finetune.cli.command import CatalogPath, Photos, photos_folder, read_collection
from finetune.cli.console import Json, Quiet, make_table, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finetune.photos.collection import Collection
    from finetune.photos.issues import Issue, LabelRow

_EXAMPLES = 3


def scan(
    photos: Photos = None,
    catalog: CatalogPath = None,
    page: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write all issues with pictures to this HTML file."),
    ] = None,
    max_distance_bits: Annotated[
        int,
        typer.Option(help="Maximum bits (of 64) by which near-duplicates differ.", min=0, max=20),
    ] = 8,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Read only the I-th of N shares of the files; several processes read others.",
        ),
    ] = None,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Replace a damaged catalog by one with all labels, groups and crops that can "
            "still be read.",
        ),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check a collection: labels, duplicates, bad photos.

    Only new and changed photos are read. Your photos are not changed.
    """
    output.json, output.quiet = json, quiet
    from finetune.photos.issues import find_issues, summarize_labels
    from finetune.photos.split.grouping import photo_groups
    from finetune.reporting.photo_page import write_contact_sheet

    root = photos_folder(photos)
    if repair:
        _repair(root, catalog)
    if shard is not None:
        _scan_shard(root, catalog, shard)
        return
    collection = read_collection(root, catalog)
    assigned = {photo.digest: photo.group for photo in collection.photos if photo.group}
    rows = summarize_labels(collection, photo_groups(collection.photos, assigned=assigned))
    issues = find_issues(collection, max_distance_bits=max_distance_bits)
    if page is not None:
        with output.progress("Drawing pictures") as progress:
            write_contact_sheet(page, collection, rows, issues, progress=progress)
        output.info(f"Written: {page}")
    output.document(_document(collection, rows, issues, page))
    _print(collection, rows, issues)


def _scan_shard(root: Path, catalog: Path | None, shard: str) -> None:
    from finetune.formatting import count
    from finetune.photos.catalog.shards import parse_shard
    from finetune.photos.scan import scan_shard

    share = parse_shard(shard)
    with output.progress("Reading photos") as advance:
        files, bad = scan_shard(root, share, catalog=catalog, progress=advance)
    output.text(
        f"Shard {shard}: {count(files, 'photo')}, {bad:,} of which cannot be opened. Once all "
        f"shards are read: finetune scan {root}"
    )
    output.document({"root": str(root), "shard": shard, "photos": files, "unreadable": bad})


def _repair(root: Path, catalog: Path | None) -> None:
    from finetune.formatting import count
    from finetune.photos.catalog.catalog import catalog_path
    from finetune.photos.catalog.repair import repair

    path = catalog_path(root, catalog)
    done = repair(path)
    if done is None:
        output.info(f"The catalog {path} is not damaged.")
        return
    words = {"label": "label", "crop": "crop", "membership": "group", "decision": "other decision"}
    saved = ", ".join(count(done.saved.get(table, 0), word) for table, word in words.items())
    note = f", {done.from_backup:,} of them from the backup" if done.from_backup else ""
    output.info(
        f"The catalog {path} was damaged. Saved: {saved}{note}. The damaged file is kept as "
        f"{done.moved_to}."
    )


def _print(collection: Collection, rows: Sequence[LabelRow], issues: Sequence[Issue]) -> None:
    from finetune.reporting.photo_page import side_range

    numbers = ("photos", "groups", "scenes", "bad")
    table = make_table("label", *numbers, "shorter side", right=numbers)
    for row in rows:
        cells = [f"{getattr(row, name):,}" for name in numbers]
        table.add_row(output.literal(row.label or "(no label)"), *cells, side_range(row))
    if len(rows) > 1:
        table.add_section()
        total = [f"{sum(getattr(row, name) for row in rows):,}" for name in numbers]
        table.add_row("all", *total, "")
    output.print(table)
    if not issues:
        output.text("\nNothing to report.")
    for issue in issues:
        output.print(Text(f"\n{issue.title}", "bold"))
        output.text(f"  {issue.advice}")
        for item in issue.items[:_EXAMPLES]:
            output.text(f"  - {_line(item.paths, item.note)}")
        rest = len(issue.items) - _EXAMPLES
        if rest > 0:
            output.text(f"  - and {rest:,} more")
    if collection.photos and not any(photo.labels for photo in collection.photos):
        output.info(f"No photo has a label yet. Next: finetune annotate {collection.root}")


def _line(paths: Sequence[str], note: str) -> str:
    shown = ", ".join(paths[:4]) + (f", and {len(paths) - 4:,} more" if len(paths) > 4 else "")
    return f"{shown}: {note}" if shown and note else shown or note


def _document(
    collection: Collection,
    rows: Sequence[LabelRow],
    issues: Sequence[Issue],
    page: Path | None,
) -> dict[str, Any]:
    return {
        "root": str(collection.root),
        "photos": len(collection.photos),
        "has_parts": collection.has_parts,
        "labels": [asdict(row) for row in rows],
        "problems": [{"path": bad.path, "reason": bad.reason} for bad in collection.problems],
        "issues": [asdict(issue) for issue in issues],
        "html": None if page is None else str(page),
    }
