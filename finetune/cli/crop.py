"""``finetune crop``: proposes, accepts and removes square crops around the subjects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from finetune.cli.command import CatalogPath, Photos, photos_folder, read_collection, team_of
from finetune.cli.console import Json, Quiet, Yes, make_table, output
from finetune.errors import ConfigError
from finetune.formatting import count, percent
from finetune.processes import Team

if TYPE_CHECKING:
    from finetune.curation.crop_policy import CropPolicy, Method
    from finetune.photos.catalog.catalog import Catalog
    from finetune.photos.collection import Collection

_SHOWN = 20


def crop(
    photos: Photos = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="saliency|center|detector",
            help="How to find the subject; default: saliency, or detector with --detector.",
        ),
    ] = None,
    detector: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Weights of a torchvision COCO detector; it prefers animals."
        ),
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Make the proposed crops your own.")
    ] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the proposed crops.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Undo your last crop change.")] = False,
    sheets: Annotated[
        list[Path] | None,
        typer.Option("--output", "-o", help="Write photos and crops to this .html or .png file."),
    ] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write square copies to this new folder.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="With --write: size in pixels; default: full size.", min=1)
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Any timm model for saliency; default: the built-in one.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="A weights file for --model; default: its own.")
    ] = None,
    catalog: CatalogPath = None,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Propose a square crop around the subject of each photo.

    saliency finds what differs from the background; center takes the largest square in the middle;
    detector uses a COCO detector whose weights you have. Photos are never changed, and your own
    crops (from annotate, or accepted) are never replaced. Training uses the crops.
    """
    output.json, output.quiet = json, quiet
    chosen = _method(method, detector)
    if sum((accept, clear, undo)) > 1:
        raise ConfigError("--accept, --clear and --undo exclude each other.")
    if size is not None and write is None:
        raise ConfigError("--size sets the size of written copies; also give --write DIR.")
    from finetune.curation.crop_policy import CropPolicyConfig, load_policy, save_policy
    from finetune.photos.catalog.catalog import open_catalog

    root = photos_folder(photos)
    with team_of("cpu") as team:
        with team.main_first():
            collection = read_collection(root, catalog)
        document: dict[str, Any] = {"photos": len(collection)}
        with open_catalog(root, catalog) as opened:
            # Several processes share the search for subjects; the main one does all else.
            proposes = not (undo or clear or (accept and opened.crop_sources()))
            if not (proposes or team.is_main):
                return
            if undo:
                document["undone"] = _undo(opened)
            elif clear:
                document["cleared"] = _clear(opened, yes)
                if not opened.crop_sources():
                    save_policy(root, None, catalog)
            elif not proposes:
                document["accepted"] = _accept(opened)
            else:
                requested = CropPolicyConfig(
                    method=chosen,
                    model=model,
                    weights=str(detector) if detector is not None else weights,
                )
                policy, loaded = load_policy(requested)
                proposed = _propose(opened, collection, policy, team)
                if not team.is_main:
                    return
                document |= proposed
                save_policy(root, loaded, catalog)
                if accept:
                    document["accepted"] = _accept(opened)
            collection = opened.collection(root)
            sources = opened.crop_sources()
    document["crops"] = [
        {
            "path": photo.path,
            "crop": photo.crop.to_dict(),
            "by": sources.get(photo.digest),
        }
        for photo in collection.photos
        if photo.crop is not None
    ]
    _show(collection)
    _write_sheets(collection, sheets or [])
    if write is not None:
        document["written"] = _write_copies(collection, write, size)
    output.document(document)


def _method(method: str | None, detector: Path | None) -> Method:
    if method is None:
        return "detector" if detector is not None else "saliency"
    if method not in ("saliency", "center", "detector"):
        raise ConfigError(f"--method {method} is not one of saliency, center, detector.")
    if method == "detector" and detector is None:
        raise ConfigError(
            "--method detector needs the weights of a torchvision detector: --detector FILE. "
            "Without them, use --method saliency."
        )
    if method != "detector" and detector is not None:
        raise ConfigError(f"--detector has no effect with --method {method}; leave one out.")
    return cast("Method", method)


def _propose(
    catalog: Catalog, collection: Collection, policy: CropPolicy, team: Team
) -> dict[str, Any]:
    from finetune.curation.crop_proposals import propose_to_catalog

    sources = catalog.crop_sources()
    kept = sum(sources.get(photo.digest) == "person" for photo in collection.photos)
    with output.progress("Finding subjects") as advance:
        found = propose_to_catalog(catalog, collection, policy, progress=advance, team=team)
    if not team.is_main:
        return {}
    output.text(f"{count(len(found.crops), 'photo')} with a proposed crop.")
    if kept:
        output.text(f"{count(kept, 'photo')} with your own crop, which was kept.")
    if found.crops:
        output.info("Training uses the proposed crops from now on; --clear removes them.")
    if found.nothing_found:
        output.text(f"{count(len(found.nothing_found), 'photo')} without a visible subject.")
    for problem in found.problems:
        output.warn(f"{problem.path} is left out: {problem.reason}.")
    return {
        "proposed": len(found.crops),
        "kept": kept,
        "nothing_found": [photo.path for photo in found.nothing_found],
        "problems": [[problem.path, problem.reason] for problem in found.problems],
    }


def _accept(catalog: Catalog) -> int:
    from finetune.curation.crop_proposals import accept

    accepted = accept(catalog)
    output.text(
        f"{count(accepted, 'crop')} accepted. Undo with: finetune crop --undo"
        if accepted
        else "There is no proposed crop to accept."
    )
    return accepted


def _clear(catalog: Catalog, yes: bool) -> int:
    from finetune.curation.crop_proposals import clear

    proposed = sum(source == "model" for source in catalog.crop_sources().values())
    if not proposed:
        output.text("There is no proposed crop to remove.")
        return 0
    if not yes and not typer.confirm(f"Remove {count(proposed, 'proposed crop')}?", err=True):
        output.text("Nothing was changed.")
        return 0
    clear(catalog)
    output.text(f"{count(proposed, 'proposed crop')} removed.")
    return proposed


def _undo(catalog: Catalog) -> str | None:
    from finetune.curation.crop_proposals import undo_accept

    what = undo_accept(catalog)
    output.text(
        f"Undone: {what}."
        if what
        else "Your last change was not of crops; undo it in finetune annotate."
    )
    return what


def _show(collection: Collection) -> None:
    with_crop = [photo for photo in collection.photos if photo.crop is not None]
    if not with_crop:
        return
    table = make_table("photo", "center", "side", right=("center", "side"))
    for photo in with_crop[:_SHOWN]:
        if photo.crop is not None:
            where = f"{percent(photo.crop.center_x, 0)}, {percent(photo.crop.center_y, 0)}"
            table.add_row(output.literal(photo.path), where, percent(photo.crop.side, 0))
    output.print(table)
    if len(with_crop) > _SHOWN:
        output.text(f"... and {len(with_crop) - _SHOWN:,} more; --output shows all of them.")


def _write_sheets(collection: Collection, files: list[Path]) -> None:
    photos = [photo for photo in collection.photos if photo.crop is not None]
    for file in files:
        from finetune.photos.crops import Crop
        from finetune.reporting.photo_page import (
            CROPS_NOTE,
            Section,
            crop_doubt,
            crop_figures,
            write_crop_png,
            write_picture_page,
        )

        if file.suffix.lower() == ".png":
            write_crop_png(file, collection, photos)
        else:
            doubtful = sorted(photos, key=lambda photo: -crop_doubt(photo.crop or Crop()))
            figures = tuple(crop_figures(collection, doubtful))
            title = f"{count(len(photos), 'photo')} of {collection.root} and their crops"
            sections = [Section(heading="Photo and crop", figures=figures)]
            write_picture_page(file, title, sections, note=CROPS_NOTE)
        output.text(f"Written: {file}")


def _write_copies(collection: Collection, folder: Path, size: int | None) -> dict[str, Any]:
    from finetune.photos.datasets.export import ExportOptions, export_photos

    # Folders of labels would leave out photos without one.
    layout: Any = "folders" if all(photo.labels for photo in collection.photos) else "csv"
    options = ExportOptions(layout=layout, crops=True, size=size)
    with output.progress("Writing") as advance:
        done = export_photos(collection, folder, options, progress=advance)
    output.text(f"{count(done.files, 'photo')} written to {folder}.")
    for path, reason in done.problems:
        output.warn(f"{path} is left out: {reason}.")
    return {
        "folder": str(folder),
        "files": done.files,
        "problems": [list(problem) for problem in done.problems],
    }
