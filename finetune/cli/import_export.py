"""``finetune export-photos`` and ``finetune import``: labels from and for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.command import CatalogPath, Photos, one_of, photos_folder, read_collection
from finetune.cli.console import Json, Quiet, output
from finetune.config import Fit
from finetune.errors import ConfigError
from finetune.formatting import count
from finetune.photos.labels import label_twins, twins_note

if TYPE_CHECKING:
    from finetune.photos.collection import Collection
    from finetune.photos.datasets.image_sets import ArchivedFolders, ImageSet
    from finetune.photos.datasets.import_labels import LabelImport

_SHOWN = 5


def export_photos(
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    photos: Photos = None,
    layout: Annotated[
        str,
        typer.Option(
            metavar="folders|csv|nnc",
            help="One folder a label, a labels.csv, or Neural Network Console's CSV.",
        ),
    ] = "folders",
    hardlink: Annotated[
        bool, typer.Option("--hardlink", help="Link to the files instead of copying them.")
    ] = False,
    symlink: Annotated[
        bool, typer.Option("--symlink", help="Write symbolic links instead of copies.")
    ] = False,
    crops: Annotated[
        bool, typer.Option("--crops", help="Write the crop of each photo that has one.")
    ] = False,
    size: Annotated[
        int | None, typer.Option(help="Write square JPEGs of this size in pixels.", min=1)
    ] = None,
    fit: Annotated[
        str, typer.Option(metavar="crop|pad|squash", help="How to make a photo square.")
    ] = "crop",
    run: Annotated[
        str | None,
        typer.Option(help="A run: write its photos with their labels and parts, one table a part."),
    ] = None,
    catalog: CatalogPath = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write photos and labels for other programs.

    The originals are not changed.
    """
    output.json, output.quiet = json, quiet
    if hardlink and symlink:
        raise ConfigError("--hardlink and --symlink exclude each other.")
    from finetune.photos.datasets import export

    options = export.ExportOptions(
        layout=one_of("--layout", layout, export.Layout),
        transfer="hardlink" if hardlink else "symlink" if symlink else "copy",
        crops=crops,
        size=size,
        fit=one_of("--fit", fit, Fit),
    )
    if run is None:
        collection = read_collection(photos_folder(photos), catalog)
    else:
        collection = _split_of_run(run, photos, catalog)
    with output.progress("Writing") as advance:
        done = export.export_photos(collection, out, options, progress=advance)
    output.text(f"{count(done.files, 'photo')} written to {out}.")
    for table in done.tables:
        output.text(str(table))
    if done.renamed:
        shown = ", ".join(f"{label!r} in {folder}" for label, folder in done.renamed[:_SHOWN])
        more = f" and {len(done.renamed) - _SHOWN:,} more" if len(done.renamed) > _SHOWN else ""
        output.warn(f"Folders that cannot have the name of their label: {shown}{more}.")
    if done.collisions:
        path, name = done.collisions[0]
        output.warn(
            f"{count(len(done.collisions), 'photo')} got another name, because one of that name "
            f"was there: {path} is {name}."
        )
    if done.contradictions:
        first, second = done.contradictions[0]
        output.warn(
            f"{count(len(done.contradictions), 'photo has', 'photos have')} a copy under another "
            f"label: {first} and {second}."
        )
    if done.unlabeled:
        output.warn(f"{count(done.unlabeled, 'photo')} without a label left out.")
    for path, reason in done.problems:
        output.warn(f"{path} left out: {reason}.")
    output.document(
        {
            "folder": str(out),
            "files": done.files,
            "tables": [str(table) for table in done.tables],
            "unlabeled": done.unlabeled,
            "renamed": dict(done.renamed),
            "collisions": [list(pair) for pair in done.collisions],
            "contradictions": [list(pair) for pair in done.contradictions],
            "problems": [list(problem) for problem in done.problems],
        }
    )
    if done.problems:
        raise typer.Exit(1)


def _split_of_run(run: str, photos: Path | None, catalog: Path | None) -> Collection:
    """Returns the photos of a run with the labels and parts of its training."""
    from finetune.photos.split.split import read_split, with_split
    from finetune.runs.folder import find_run

    folder = find_run(run)
    if not folder.split_file.is_file():
        raise ConfigError(f"{folder.path} has no split.csv, so that its parts are not known.")
    rows = read_split(folder.split_file)
    if any(row.fold is not None for row in rows):
        output.warn(
            f"{folder.path.name} is cross-validated: every photo trained its model, so that all "
            "are in one table. Train with --validation and --test for parts."
        )
    root = photos or Path(folder.read(folder.config_file).get("photos", ""))
    if not root.is_dir():
        raise ConfigError(
            f"The photos of {folder.path.name} are not in {root}. Name their folder: "
            f"finetune export-photos OUT PHOTOS --run {run}"
        )
    collection, missing = with_split(read_collection(root, catalog), rows)
    if missing:
        output.warn(
            f"{count(len(missing), 'photo')} of the run no longer in {root}, {missing[0]} among "
            "them."
        )
    return collection


def import_(
    labels: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A CSV file of any of these kinds, a folder with one folder a label, or a "
            "data set.",
        ),
    ],
    photos: Annotated[
        Path | None,
        typer.Argument(help="Folder of photos; default: ./photos. For a data set a new folder."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also replace labels assigned before.")
    ] = False,
    empty_is_none: Annotated[
        bool,
        typer.Option(
            "--empty-is-none",
            help="Rows without a label mean that the photo has none of the labels.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the changes without making them.")
    ] = False,
    by_name: Annotated[
        bool,
        typer.Option(
            "--by-name", help="Find photos by file name where the folders in the table differ."
        ),
    ] = False,
    encoding: Annotated[
        str | None,
        typer.Option(help="Encoding of the table or of names in a zip file; default: utf-8."),
    ] = None,
    catalog: CatalogPath = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Import labels, or a data set as a new folder of photos.

    Labels are a CSV with a column of paths and one of labels, Neural Network Console's
    x:image,y:label, Hugging Face's metadata.csv, or folders of labeled copies of your photos,
    whose files stay where they are. Data sets are CIFAR-10 (cifar-10-python.tar.gz or -binary, or
    the folder in it), MNIST's idx files (one of them, or their folder), and archives of image
    folders. Nothing that they hold is run.
    """
    output.json, output.quiet = json, quiet
    from finetune.photos.datasets.archives import read_image_set

    found = read_image_set(labels, encoding=encoding)
    if found is not None:
        _write_out(found, labels, photos, dry_run)
        return
    from finetune.photos.catalog.catalog import open_catalog
    from finetune.photos.datasets.import_labels import apply_import, plan_import, read_labels

    root = photos_folder(photos)
    with output.progress("Reading labels") as advance:
        table = read_labels(
            labels,
            encoding=encoding,
            progress=advance,
        )
    collection = read_collection(root, catalog)
    with open_catalog(root, catalog) as opened:
        plan = plan_import(
            table,
            collection,
            opened.assigned_labels(),
            beside=labels if labels.is_dir() else labels.parent,
            overwrite=overwrite,
            empty_is_none=empty_is_none,
            by_name=by_name,
        )
        if not dry_run:
            apply_import(opened, plan)
    for note in table.notes:
        output.info(note)
    _report(plan, dry_run)
    output.document(
        {
            "format": plan.format,
            "notes": list(table.notes),
            "labeled": len(plan.new),
            "same": plan.same,
            "kept": [{"path": path, "labels": list(names)} for path, names in plan.kept],
            "unknown": [row.path for row in plan.unknown],
            "unlabeled": plan.unlabeled,
            "dry_run": dry_run,
        }
    )


def _write_out(
    found: ImageSet | ArchivedFolders, source: Path, folder: Path | None, dry_run: bool
) -> None:
    from finetune.photos.datasets.image_sets import check_new, write_image_set

    if folder is None:
        raise ConfigError(
            f"{source} is a data set ({found.format}). Name a new folder for its photos: "
            f"finetune import {source} NEW_FOLDER"
        )
    check_new(folder)
    counts: dict[str, int] = {}
    if not dry_run:
        with output.progress("Writing") as advance:
            counts = write_image_set(found, folder, progress=advance)
    verb = "would be" if dry_run else "were"
    output.text(f"{found.format}: {count(len(found), 'photo')} {verb} written to {folder}.")
    for written, name in found.renamed[:_SHOWN]:
        output.warn(f"{written} is named {name} here.")
    if len(found.renamed) > _SHOWN:
        output.warn(f"{len(found.renamed) - _SHOWN:,} more have other names.")
    twins = twins_note(label_twins(counts))
    if twins:
        output.warn(twins)
    if not dry_run:
        output.text(f"Next: finetune train {folder}")
    output.document(
        {
            "format": found.format,
            "folder": str(folder),
            "photos": len(found),
            "labels": counts,
            "renamed": dict(found.renamed),
            "dry_run": dry_run,
        }
    )


def _report(plan: LabelImport, dry_run: bool) -> None:
    verb = "would get" if dry_run else "got"
    output.text(
        f"{plan.format}: {count(len(plan.new), 'photo')} {verb} new labels, "
        f"{plan.same:,} had them already."
    )
    if plan.kept:
        first, names = plan.kept[0]
        output.warn(
            f"{count(len(plan.kept), 'photo')} kept labels that a person assigned, {first} "
            f"({', '.join(names)} in the file) among them; --overwrite replaces it."
        )
    if plan.unknown:
        shown = ", ".join(row.path for row in plan.unknown[:_SHOWN])
        more = f" and {len(plan.unknown) - _SHOWN:,} more" if len(plan.unknown) > _SHOWN else ""
        output.warn(f"Not in the collection: {shown}{more}.")
    if plan.elsewhere:
        written, path = plan.elsewhere[0]
        output.warn(
            f"Photos in other folders have these file names, such as {path} for {written}. If they "
            "are the same photos, add --by-name."
        )
    twins = twins_note(plan.twins)
    if twins:
        output.warn(twins)
    if plan.unlabeled:
        output.warn(f"{count(plan.unlabeled, 'row')} without a label skipped.")
