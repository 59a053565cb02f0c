"""``finetune split``: the split into train, validation and test, and its check for leaks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune.cli.command import CatalogPath, Photos, Seed, photos_folder, read_collection
from finetune.cli.console import Json, Quiet, make_table, output
from finetune.config import TrainConfig
from finetune.config_io import resolve
from finetune.errors import ConfigError
from finetune.formatting import interval, percent

if TYPE_CHECKING:
    from finetune.photos.collection import Collection, Part, Photo
    from finetune.photos.split.leakage import LeakAudit, SplitProof
    from finetune.photos.split.split import SplitRow


_PARTS: tuple[Part, ...] = ("train", "validation", "test")


def split(
    photos: Photos = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="duplicates|burst|folder|none",
            help="What must stay on one side: near-duplicates, all that one camera took within "
            "half a minute, folders, or no more than exact copies. [default: duplicates]",
        ),
    ] = None,
    validation: Annotated[
        float | None, typer.Option(help="Share of validation photos; default: 0.15.")
    ] = None,
    test: Annotated[float | None, typer.Option(help="Share of test photos; default: 0.15.")] = None,
    min_photos: Annotated[
        int | None, typer.Option(help="Leave out labels with fewer photos than this.", min=2)
    ] = None,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="A photo may have several labels, or none.")
    ] = False,
    negatives: Annotated[
        str | None,
        typer.Option(help="With --multi-label: folder of photos that have none of the labels."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Make this many folds for cross-validation instead.", min=2)
    ] = None,
    audit: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="Measure how much near-duplicates in train raise a run's accuracy."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write split.csv here; a folder for --folds."),
    ] = None,
    seed: Seed = 0,
    catalog: CatalogPath = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Split photos into parts, and check for leaks."""
    output.json, output.quiet = json, quiet
    settings = resolve(
        None,
        {
            "group_by": group_by,
            "validation": validation,
            "test": test,
            "min_photos": min_photos,
            "catalog": catalog,
            "seed": seed,
            "multi_label": multi_label or None,
            "negatives": negatives,
        },
    )
    if folds is not None and audit is not None:
        raise ConfigError("--folds and --audit exclude each other.")

    collection = read_collection(photos_folder(photos), catalog)
    if audit is not None:
        show_audit(collection, audit, seed)
    elif folds is not None:
        _folds(collection, settings, folds, out)
    else:
        _split(collection, settings, out)


def _split(collection: Collection, settings: TrainConfig, out: Path | None) -> None:
    from finetune.photos.split.grouping import imbalances, summarize_imbalances
    from finetune.photos.split.leakage import prove_split
    from finetune.photos.split.split import write_split

    config = settings.collection
    rows, notes = _rows(collection, settings)
    photos = photos_of(collection, rows)
    parts = [row.part for row in rows]
    groups = [row.group for row in rows]
    labels = [row.labels for row in rows]
    proof = prove_split(rows, photos)
    short = (
        ()
        if collection.has_parts
        else imbalances(
            labels, groups, parts, validation=config.validation_share, test=config.test_share
        )
    )
    _show_parts(rows)
    _show_proof(proof)
    if not proof.holds:
        output.warn(
            "Figures on these parts will be flattered. Take the copies out with: finetune "
            "duplicates --quarantine DIR; or put all photos into one folder a label, and leave "
            "the split to finetune."
        )
    for note in notes:
        output.info(note)
    if short:
        output.warn(summarize_imbalances(short))
    if out is not None:
        path = out / "split.csv" if out.is_dir() else out
        output.text(f"Written: {write_split(path, rows)}")
    output.document(
        {
            "parts": dict(Counter(parts)),
            "labels": _by_label(rows),
            "proof": _proof_dict(proof),
            "imbalances": [str(item) for item in short],
            "notes": list(notes),
            "rows": [
                {"path": row.path, "label": list(row.labels), "group": row.group, "part": row.part}
                for row in rows
            ],
        }
    )


def _folds(collection: Collection, settings: TrainConfig, folds: int, out: Path | None) -> None:
    import dataclasses

    from finetune.photos.split.leakage import prove_split
    from finetune.photos.split.split import fold_groups, fold_parts, write_split

    rows, notes = _rows(collection, settings)
    photos = photos_of(collection, rows)
    held = fold_groups(
        [row.labels for row in rows],
        [row.group for row in rows],
        folds=folds,
        seed=settings.machine.seed,
    )
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--output {out} is a file; {folds} folds need a folder.")
    table = make_table(
        "fold", "train", "validation", "leaks", right=("train", "validation", "leaks")
    )
    listed = []
    for fold in range(folds):
        parts = fold_parts(held, fold)
        fold_rows = [
            dataclasses.replace(row, part=part) for row, part in zip(rows, parts, strict=True)
        ]
        proof = prove_split(fold_rows, photos)
        leaks = sum(proof.leaks.values())
        table.add_row(
            str(fold + 1),
            f"{proof.photos.get('train', 0):,}",
            f"{proof.photos.get('validation', 0):,}",
            f"{leaks:,}",
        )
        listed.append({"parts": dict(Counter(parts)), "proof": _proof_dict(proof)})
        if out is not None:
            write_split(out / f"split-fold-{fold + 1}.csv", fold_rows)
    output.print(table)
    always = held.count(-1)
    if always:
        output.warn(
            f"{always:,} photos train in every fold: their label has one group, or they share one "
            "with such a label."
        )
    for note in notes:
        output.info(note)
    if out is not None:
        output.text(f"Written: {out}/split-fold-1.csv ... split-fold-{folds}.csv")
    output.document({"folds": listed, "always_train": always, "notes": list(notes)})


def _rows(
    collection: Collection, settings: TrainConfig
) -> tuple[tuple[SplitRow, ...], tuple[str, ...]]:
    from finetune.tasks.data_split import split_collection

    parts = split_collection(
        collection, settings.collection, seed=settings.machine.seed, labels=settings.labels
    )
    return parts.rows, parts.notes


def _by_label(rows: Sequence[SplitRow]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for label in row.labels:
            counts.setdefault(label, Counter())[row.part] += 1
    return {label: dict(counts[label]) for label in sorted(counts)}


def _show_parts(rows: Sequence[SplitRow]) -> None:
    by_label = _by_label(rows)
    groups = {label: set[str]() for label in by_label}
    for row in rows:
        for label in row.labels:
            groups[label].add(row.group)
    table = make_table("label", "groups", *_PARTS, right=("groups", *_PARTS))
    for label, counts in by_label.items():
        table.add_row(
            output.literal(label),
            f"{len(groups[label]):,}",
            *(f"{counts.get(p, 0):,}" for p in _PARTS),
        )
    total = Counter(row.part for row in rows)
    table.add_section()
    table.add_row(
        "all", f"{len({row.group for row in rows}):,}", *(f"{total[p]:,}" for p in _PARTS)
    )
    output.print(table)


def _show_proof(proof: SplitProof) -> None:
    output.text(f"Groups that straddle: {proof.straddling_groups:,} of {proof.groups:,}.")
    leaks = ", ".join(f"{count:,} in {part}" for part, count in proof.leaks.items())
    output.text(f"Held-out photos with a near-duplicate in training: {leaks or 'none held out'}.")
    nearest = proof.nearest
    if nearest is None:
        from finetune.photos.split.leakage import NEAREST_BITS

        output.text(f"Nearest pair across the border: more than {NEAREST_BITS} bits apart.")
    else:
        bits = f"{nearest.distance_bits} bit{'' if nearest.distance_bits == 1 else 's'}"
        output.text(
            f"Nearest pair across the border: {bits} apart, {nearest.train} in training and "
            f"{nearest.held_out}."
        )


def _proof_dict(proof: SplitProof) -> dict[str, Any]:
    return {"holds": proof.holds, **proof.summary()}


def show_audit(collection: Collection, run: str, seed: int) -> None:
    """Prints a run's accuracy on held-out photos with and without a near-duplicate in train."""
    from finetune.evaluation.intervals import wilson
    from finetune.evaluation.predictions import read_predictions
    from finetune.photos.split.leakage import audit_split, duplicates_in_training
    from finetune.photos.split.split import read_split
    from finetune.runs.folder import find_run

    folder = find_run(run)
    rows = read_split(folder.split_file)
    predictions = read_predictions(folder.predictions_file)
    photos = photos_of(collection, rows)
    known = {photo.path: photo for photo in photos}
    rows = tuple(row for row in rows if row.path in known)
    correct = {item.path: item.correct for item in predictions if item.path in known}
    result = audit_split(photos, [row.part for row in rows], correct)
    table = make_table(
        "held-out photos",
        "photos",
        "correct",
        "accuracy",
        "95 % interval",
        right=("photos", "correct", "accuracy", "95 % interval"),
    )
    for name, tally in (
        ("with a near-duplicate in train", result.with_duplicate),
        ("without a near-duplicate", result.without_duplicate),
    ):
        ends = wilson(tally.correct, tally.photos)
        table.add_row(
            name,
            f"{tally.photos:,}",
            f"{tally.correct:,}",
            "" if tally.accuracy is None else percent(tally.accuracy),
            interval(ends),
        )
    output.print(table)
    verdict = _verdict(result)
    output.text(verdict)
    loose = _ungrouped_parts(photos, rows, seed)
    duplicates = int(duplicates_in_training(photos, loose).sum())
    held_out = sum(part != "train" for part in loose)
    output.text(
        f"A split without groups would put near-duplicates of {duplicates:,} of {held_out:,} "
        "held-out photos into train."
    )
    output.document(
        {
            "with_duplicate": dataclasses.asdict(result.with_duplicate),
            "without_duplicate": dataclasses.asdict(result.without_duplicate),
            "flattered_points": result.flattered_points,
            "ungrouped": {"held_out": held_out, "with_duplicate": duplicates},
        }
    )


def _verdict(result: LeakAudit) -> str:
    points = result.flattered_points
    if result.with_duplicate.photos == 0:
        return "No held-out photo has a near-duplicate in train, so the run's accuracy is unbiased."
    if points is None:
        return "Every held-out photo has a near-duplicate in train, so no accuracy is unbiased."
    return f"Near-duplicates raise the accuracy of the run by {points:.1f} points."


def photos_of(collection: Collection, rows: Sequence[SplitRow]) -> list[Photo]:
    """Returns the photos of rows, in their order; warns of photos that are gone or have changed."""
    by_path = {photo.path: photo for photo in collection.photos}
    found = [
        by_path[row.path]
        for row in rows
        if row.path in by_path and by_path[row.path].digest == row.digest
    ]
    if len(found) < len(rows):
        output.warn(f"{len(rows) - len(found):,} photos are gone or have changed since the split.")
    return found


def _ungrouped_parts(photos: Sequence[Photo], rows: Sequence[SplitRow], seed: int) -> list[Part]:
    """Returns the parts of a split with the same shares but without groups."""
    from finetune.photos.split.split import split_groups

    counts = Counter(row.part for row in rows)
    shares = {part: counts[part] / max(len(rows), 1) for part in ("validation", "test")}
    return split_groups(
        [row.labels for row in rows],
        [photo.path for photo in photos],
        validation=shares["validation"],
        test=shares["test"],
        seed=seed,
    )
