"""``finetune similar``: finds photos that look like a few chosen ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.cli.command import CatalogPath, one_of, read_collection, team_of
from finetune.cli.console import Json, Quiet, make_table, output
from finetune.formatting import count

if TYPE_CHECKING:
    from finetune.curation.similar import Similar
    from finetune.photos.collection import Collection

_SHOWN = 20


def similar(
    seeds: Annotated[
        list[Path], typer.Argument(metavar="SEED", help="Chosen photos, or folders of them.")
    ],
    pool: Annotated[
        Path, typer.Option("--from", metavar="POOL", help="Folder of photos to search.")
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Copy the chosen photos and those found to this new folder."
        ),
    ] = None,
    by: Annotated[str, typer.Option(metavar="features|hash", help="What to compare.")] = "features",
    like: Annotated[
        str,
        typer.Option(
            metavar="all|any", help="Like all the chosen photos together, or any of them."
        ),
    ] = "all",
    top: Annotated[int, typer.Option(help="Maximum number of photos.", min=1)] = 50,
    least: Annotated[float | None, typer.Option(help="Minimum similarity.", min=-1, max=1)] = None,
    link: Annotated[
        str,
        typer.Option(
            metavar="copy|hardlink|symlink", help="With --to: copy the files, or link to them."
        ),
    ] = "copy",
    page: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the photos found to this HTML file."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Any timm model for features; default: the built-in one.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="A weights file for --model; default: its own.")
    ] = None,
    catalog: CatalogPath = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the photos that look most like a few chosen ones.

    --by features compares what the photos show: the same kind of subject, place or mood. --by hash
    compares where they are bright and dark: copies and crops of the same photo, or the same
    composition. It is quick and loads no model.

    The chosen photos are not listed again. No original is moved or changed.
    """
    output.json, output.quiet = json, quiet
    from finetune.curation.embedding import DEFAULT_BACKBONE
    from finetune.curation.similar import By, Like, Link, Query, check_target, find_similar, gather
    from finetune.prediction.inputs import photos_of

    transfer: Link = one_of("--link", link, Link)
    if to is not None:
        check_target(to, pool)
    paths = list(photos_of(seeds))
    query = Query(
        by=one_of("--by", by, By),
        like=one_of("--like", like, Like),
        top=top,
        min_similarity=least,
        model=model or DEFAULT_BACKBONE,
        weights=weights,
    )
    with team_of("cpu") as team:
        with team.main_first():
            collection = read_collection(pool, catalog)
        with output.progress("Comparing") as advance:
            found = find_similar(
                paths, collection, query, catalog=catalog, progress=advance, team=team
            )
        if not team.is_main:
            return
    for problem in found.problems:
        output.warn(f"{problem.path} is left out: {problem.reason}.")
    document = _as_dict(found, collection)
    _show(found, collection)
    if to is not None:
        # The chosen photos first: the folder is all of one kind.
        sources = list(found.seeds)
        sources += [collection.path_of(collection.photos[m.position]) for m in found.matches]
        with output.progress("Copying" if link == "copy" else "Linking") as advance:
            made = gather(sources, to, link=transfer, progress=advance)
        document["placed_seeds"] = [str(path) for path in made[: len(found.seeds)]]
        for entry, path in zip(document["photos"], made[len(found.seeds) :], strict=True):
            entry["placed"] = str(path)
        verb = "copied" if link == "copy" else "linked"
        output.text(f"{count(len(made), 'photo')} {verb} to {to}.")
    if page is not None:
        document["html"] = str(_write_page(page, found, collection, pool))
        output.text(f"Written: {page}")
    output.document(document)


def _show(found: Similar, collection: Collection) -> None:
    if not found.matches:
        output.text(
            f"None of the {count(len(collection), 'photo')} of {collection.root} is similar."
        )
        return
    table = make_table("#", "photo", "similarity", "nearest seed", right=("#", "similarity"))
    for number, match in enumerate(found.matches[:_SHOWN], start=1):
        table.add_row(
            str(number),
            output.literal(collection.photos[match.position].path),
            f"{match.similarity:.3f}",
            output.literal(found.seeds[match.seed].name),
        )
    output.print(table)
    if len(found.matches) > _SHOWN:
        output.text(f"... and {len(found.matches) - _SHOWN:,} more; --json or --output lists them.")


def _as_dict(found: Similar, collection: Collection) -> dict[str, Any]:
    return {
        "seeds": [str(path) for path in found.seeds],
        "pool": len(collection),
        "photos": [
            {
                "path": str(collection.path_of(collection.photos[match.position])),
                "labels": list(collection.photos[match.position].labels),
                "similarity": round(match.similarity, 6),
                "nearest_seed": str(found.seeds[match.seed]),
            }
            for match in found.matches
        ],
        "problems": [[problem.path, problem.reason] for problem in found.problems],
    }


def _write_page(path: Path, found: Similar, collection: Collection, pool: Path) -> Path:
    from finetune.reporting.gallery import make_thumbnail, make_thumbnails
    from finetune.reporting.photo_page import Figure, Section, write_picture_page

    seeds = [
        Figure(pictures=((make_thumbnail(seed), seed.name),), caption=(seed.name,))
        for seed in found.seeds
    ]
    matches = [(collection.photos[match.position], match) for match in found.matches]
    with output.progress("Thumbnails") as advance:
        made, _ = make_thumbnails(
            collection.root, [photo.path for photo, _ in matches], progress=advance
        )
    figures = [
        Figure(
            pictures=((made[photo.path], photo.path),),
            caption=(f"{number}. {photo.path}", f"similarity {match.similarity:.3f}"),
        )
        for number, (photo, match) in enumerate(matches, start=1)
        if photo.path in made
    ]
    return write_picture_page(
        path,
        f"{count(len(found.matches), 'photo')} of {pool} like {count(len(found.seeds), 'photo')}",
        [
            Section(heading="Chosen", figures=tuple(seeds)),
            Section(heading="Similar", figures=tuple(figures)),
        ],
    )
