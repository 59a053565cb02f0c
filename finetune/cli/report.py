"""``finetune report``: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.command import Language, Open, open_page
from finetune.cli.console import Json, Quiet, output
from finetune.errors import ConfigError
from finetune.formatting import count
from finetune.messages import check_language, in_language


def report(
    run: Annotated[
        str | None, typer.Argument(help="A run's name or folder; default: the newest.")
    ] = None,
    show: Open = False,
    max_photos: Annotated[
        int, typer.Option(help="Most photos in the file; each adds about 10 KB.", min=0)
    ] = 500,
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
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Also write mistakes, confusion matrix and learning curve as pictures.",
        ),
    ] = None,
    language: Language = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a report of a run as one HTML file."""
    output.json, output.quiet = json, quiet
    from finetune.reporting.report import Extras, write_report
    from finetune.reporting.run_record import photos_root
    from finetune.runs.folder import find_run

    check_language(language)
    if photos is not None and not photos.is_dir():
        raise ConfigError(f"--photos {photos} is not a folder.")
    if file is not None and file.is_dir():
        raise ConfigError(f"--output {file} is a folder. Name a file, such as {file}/report.html.")
    if images is not None and images.exists() and not images.is_dir():
        raise ConfigError(f"--images {images} is a file. Name a folder.")
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
    with output.progress("Photos") as advance, in_language(language):
        made = write_report(
            folder.path,
            photos_root=root,
            max_photos=max_photos,
            output=file,
            images=images,
            extras=extras,
            progress=advance,
        )
    if made.failed:
        path, reason = next(iter(made.failed.items()))
        tried = len(made.failed) + made.thumbnails + made.others
        output.warn(
            f"{len(made.failed)} of {tried} photos could not be opened and are shown by name; "
            f"the first is {path}: {reason}."
        )
    part_words = "cross-validated" if made.part == "folds" else made.part
    shown = "all shown" if made.thumbnails == made.photos else f"{made.thumbnails:,} shown"
    if made.others:
        shown += f"; {count(made.others, 'photo')} of other parts whose labels may be wrong"
    output.text(
        f"{made.path}  ({count(made.photos, part_words + ' photo')}, {shown}, "
        f"{made.size_bytes / 1e6:.1f} MB)"
    )
    if made.pictures:
        output.text(f"{images}: {', '.join(path.name for path in made.pictures)}")
    output.document(
        {
            "report": str(made.path),
            "part": made.part,
            "photos": made.photos,
            "shown": made.thumbnails,
            "failed": dict(made.failed),
            "bytes": made.size_bytes,
            "images": [str(path) for path in made.pictures],
        }
    )
    if show:
        open_page(made.path)
