"""``finetune duplicates``: groups of near-duplicate photos; moves all but the best away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.cli.command import CatalogPath, Photos, photos_folder, read_collection
from finetune.cli.console import Json, Quiet, make_table, output
from finetune.errors import ConfigError
from finetune.formatting import count

if TYPE_CHECKING:
    from finetune.photos.collection import Collection
    from finetune.photos.file_mover import MoveResult
    from finetune.photos.near_duplicates.groups import Kind, NearDuplicateGroup


def duplicates(
    photos: Photos = None,
    max_distance_bits: Annotated[
        int,
        typer.Option(help="Maximum bits (of 64) by which near-duplicates differ.", min=0, max=20),
    ] = 8,
    bursts: Annotated[
        bool, typer.Option("--bursts", help="Also group photos that one camera took seconds apart.")
    ] = False,
    burst_seconds: Annotated[
        float, typer.Option(help="With --bursts: maximum pause between two photos.", min=0)
    ] = 2.0,
    features: Annotated[
        bool,
        typer.Option(
            "--features",
            help="Also list crops, color changes and screenshots, found by the features of a "
            "network; they are never moved.",
        ),
    ] = False,
    limit: Annotated[int, typer.Option(help="Maximum groups to list.", min=0)] = 20,
    page: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write all groups with thumbnails to this HTML file."),
    ] = None,
    quarantine: Annotated[
        Path | None,
        typer.Option(
            help="Move all but the best photo of each group here; --undo brings them back."
        ),
    ] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="With --quarantine: move its photos back.")
    ] = False,
    across_labels: Annotated[
        bool,
        typer.Option(
            "--across-labels", help="With --quarantine: also groups under different labels."
        ),
    ] = False,
    catalog: CatalogPath = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that read; default: one a core.", min=1)
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before moving.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find near-duplicate photos and move all but the best away.

    Near-duplicates are exact copies, resized, recompressed or slightly edited versions, and mirror
    images. --features also finds crops and stronger edits. Photos are moved only with --quarantine,
    and never deleted.
    """
    output.json, output.quiet = json, quiet
    root = photos_folder(photos)
    if undo:
        if quarantine is None:
            raise ConfigError("--undo needs the folder to bring back: --quarantine DIR --undo.")
        _undo(root, quarantine)
        return
    from finetune.photos.near_duplicates.groups import near_duplicate_groups
    from finetune.photos.near_duplicates.pairs import NearDuplicateRule

    collection = read_collection(root, catalog, workers=workers)
    rule = NearDuplicateRule(
        max_distance_bits=max_distance_bits, burst_seconds=burst_seconds if bursts else None
    )
    groups = near_duplicate_groups(collection.photos, rule, other_names=collection.other_names)
    document: dict[str, Any] = {
        "photos": len(collection.photos),
        "groups": [_as_dict(group) for group in groups],
    }
    _show(groups, len(collection.photos), limit)
    if features:
        document |= _find_by_features(collection, groups, catalog, limit)
    if page is not None:
        from finetune.reporting.photo_page import write_near_duplicates_page

        with output.progress("Thumbnails") as advance:
            document["html"] = str(write_near_duplicates_page(page, root, groups, progress=advance))
        output.text(f"Written: {page}")
    if quarantine is not None:
        linked = set(collection.other_names.values())
        stay = [
            item.photo.path
            for group in groups
            for item in group.photos[1:]
            if item.photo.path in linked and item.kind != "name"
        ]
        if stay:
            output.warn(
                f"{count(len(stay), 'near-duplicate stays', 'near-duplicates stay')} where "
                f"{'it is' if len(stay) == 1 else 'they are'}, because a link or another name of "
                f"the file needs it: {', '.join(stay[:3])}{' ...' if len(stay) > 3 else ''}."
            )
        document["moved"] = _quarantine(root, groups, quarantine, across_labels, yes)
    output.document(document)


def _show(groups: Sequence[NearDuplicateGroup], photos: int, limit: int) -> None:
    from finetune.reporting.photo_page import relation_text

    if not groups:
        output.text(f"No two of the {photos:,} photos are nearly the same.")
        return
    table = make_table("group", "photo", "label", "is", "pixels", "sharpness", right=("sharpness",))
    for number, group in enumerate(groups[:limit], start=1):
        for item in group.photos:
            photo = item.photo
            table.add_row(
                str(number) if item.kind is None else "",
                output.literal(photo.path),
                output.literal(", ".join(photo.labels)),
                relation_text(item),
                f"{photo.width} x {photo.height}",
                f"{photo.quality.sharpness:.3f}" if photo.quality is not None else "",
            )
    if limit:
        output.print(table)
    if len(groups) > limit > 0:
        output.text(f"... and {len(groups) - limit:,} more groups; --limit or --output shows them.")
    kinds = Counter(item.kind for group in groups for item in group.photos if item.kind)
    names: dict[Kind, tuple[str, str]] = {
        "name": ("other name", "other names"),
        "copy": ("exact copy", "exact copies"),
        "similar": ("near-duplicate", "near-duplicates"),
        "mirror": ("mirror image", "mirror images"),
        "burst": ("frame of a burst", "frames of bursts"),
    }
    found = ", ".join(
        count(kinds[kind], one, many) for kind, (one, many) in names.items() if kinds[kind]
    )
    output.text(f"{count(len(groups), 'group')} among {photos:,} photos: {found} beside the best.")
    contradicting = [group for group in groups if group.contradicts]
    if contradicting:
        first = contradicting[0]
        output.warn(
            f"{count(len(contradicting), 'group is', 'groups are')} under different "
            f"labels, {first.best.path} ({' / '.join(first.labels)}) among them. "
            "Resolve them with: finetune annotate"
        )


def _find_by_features(
    collection: Collection,
    groups: Sequence[NearDuplicateGroup],
    catalog: Path | None,
    limit: int,
) -> dict[str, Any]:
    """Lists the near-duplicates by features that the groups lack; returns their JSON values."""
    from finetune.curation.feature_duplicates import find_feature_duplicates

    with output.progress("Features") as advance:
        found = find_feature_duplicates(collection, groups, catalog=catalog, progress=advance)
    if found.pairs:
        table = make_table("photo", "and", "labels", "cosine", right=("cosine",))
        for pair in found.pairs[:limit]:
            labels = " / ".join(dict.fromkeys(", ".join(one.labels) for one in pair.photos))
            table.add_row(
                *(output.literal(photo.path) for photo in pair.photos),
                output.literal(labels),
                f"{pair.similarity:.3f}",
            )
        if limit:
            output.print(table)
        if len(found.pairs) > limit > 0:
            output.text(f"... and {len(found.pairs) - limit:,} more pairs; --limit shows them.")
    output.text(found.proof)
    for problem in found.problems:
        output.warn(f"{problem.path} is left out: {problem.reason}.")
    return {
        "feature_pairs": [
            {
                "paths": [photo.path for photo in pair.photos],
                "labels": [list(photo.labels) for photo in pair.photos],
                "similarity": round(pair.similarity, 6),
            }
            for pair in found.pairs
        ],
        "feature_proof": found.proof,
    }


def _quarantine(
    root: Path, groups: Sequence[NearDuplicateGroup], folder: Path, across_labels: bool, yes: bool
) -> list[str]:
    from finetune.photos.file_mover import quarantine

    chosen = [group for group in groups if across_labels or not group.contradicts]
    paths = [
        item.photo.path
        for group in chosen
        for item in group.photos
        if item.duplicate_of is not None
    ]
    if len(chosen) < len(groups):
        output.warn(
            "What stays where it is: "
            f"{count(len(groups) - len(chosen), 'group')} under different labels; --across-labels "
            "moves them too."
        )
    if not paths:
        output.text("There is nothing to move.")
        return []
    question = f"Move {len(paths):,} photos from {root} to {folder}?"
    if not yes and not typer.confirm(question, err=True):
        output.text("Nothing was moved.")
        return []
    with output.progress("Moving") as advance:
        moves = quarantine(root, paths, folder, progress=advance)
    _report(
        moves,
        f"moved to {folder}. To bring them back: "
        f"finetune duplicates {root} --quarantine {folder} --undo",
    )
    return [move.source for move in moves.done]


def _undo(root: Path, folder: Path) -> None:
    from finetune.photos.file_mover import restore

    with output.progress("Moving back") as advance:
        moves = restore(root, folder, progress=advance)
    _report(moves, f"moved back to {root}.")
    output.document(
        {
            "restored": [move.source for move in moves.done],
            "problems": [[move.source, reason] for move, reason in moves.problems],
        }
    )
    if moves.problems:
        raise typer.Exit(1)


def _report(moves: MoveResult, what: str) -> None:
    output.text(f"{count(len(moves.done), 'photo')} {what}")
    for move, reason in moves.problems:
        output.warn(f"{move.source} was not moved: {reason}.")


def _as_dict(group: NearDuplicateGroup) -> dict[str, Any]:
    return {
        "labels": list(group.labels),
        "contradicts": group.contradicts,
        "photos": [
            {
                "path": item.photo.path,
                "labels": list(item.photo.labels),
                "kind": item.kind or "best",
                "distance_bits": item.distance_bits,
                "duplicate_of": item.duplicate_of.path if item.duplicate_of else None,
                "width": item.photo.width,
                "height": item.photo.height,
                "sharpness": item.photo.quality.sharpness if item.photo.quality else None,
            }
            for item in group.photos
        ],
    }
