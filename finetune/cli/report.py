"""``finetune report``: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.command import Open, open_page
from finetune.cli.console import Json, Quiet, output
from finetune.errors import ConfigError


def report(
    run: Annotated[
        str | None, typer.Argument(help="A run's name or folder; default: the newest.")
    ] = None,
    show: Open = False,
    max_photos: Annotated[
        int, typer.Option(help="Most photos in the file; each adds about 12 KB.", min=0)
    ] = 1000,
    part: Annotated[
        str | None, typer.Option(help="Which part to report on; default: test, else validation.")
    ] = None,
    photos: Annotated[
        Path | None, typer.Option(help="Where the collection is now; default: where it was.")
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(help="Show deciding regions (Grad-CAM) and likely label errors."),
    ] = True,
    file: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to write; default: report.html in the run."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a report of a run as one HTML file."""
    output.json, output.quiet = json, quiet
    from finetune.reporting.report import Extras, write_report
    from finetune.reporting.run_record import photos_root
    from finetune.runs.folder import find_run

    if photos is not None and not photos.is_dir():
        raise ConfigError(f"--photos {photos} is not a folder.")
    if file is not None and file.is_dir():
        raise ConfigError(f"--output {file} is a folder. Name a file, such as {file}/report.html.")
    folder = find_run(run)
    root = photos or photos_root(folder.path)
    if root is None:
        output.warn(
            "The photos have been moved or deleted, so the report shows them by name. "
            "Give their folder with --photos."
        )
    extras = Extras(part=part)
    if root is not None and explain:
        from finetune.prediction.report_extras import report_extras

        with output.progress("Explaining mistakes") as advance:
            extras, notes = report_extras(folder, root, part=part, progress=advance)
        for note in notes:
            output.warn(note)
    with output.progress("Photos") as advance:
        made = write_report(
            folder.path,
            photos_root=root,
            max_photos=max_photos,
            output=file,
            extras=extras,
            progress=advance,
        )
    if made.failed:
        path, reason = next(iter(made.failed.items()))
        output.warn(
            f"{len(made.failed)} of {len(made.failed) + made.thumbnails} photos could not be "
            f"opened and are shown by name; the first is {path}: {reason}."
        )
    part_words = "cross-validated" if made.part == "folds" else made.part
    output.text(
        f"{made.path}  ({made.photos:,} {part_words} photos, {made.thumbnails:,} of them shown, "
        f"{made.size_bytes / 1e6:.1f} MB)"
    )
    output.document(
        {
            "report": str(made.path),
            "part": made.part,
            "photos": made.photos,
            "shown": made.thumbnails,
            "failed": dict(made.failed),
            "bytes": made.size_bytes,
        }
    )
    if show:
        open_page(made.path)
