"""``finetune compare``: compares runs on the same photos, with a paired test."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.command import Device, Language, Open, Seed, open_page, read_collection
from finetune.cli.console import Json, Quiet, make_table, output
from finetune.errors import ConfigError
from finetune.formatting import count, duration, interval, number, percent, signed
from finetune.messages import check_language, in_language

if TYPE_CHECKING:
    from finetune.evaluation.predictions import Prediction
    from finetune.photos.collection import Collection
    from finetune.reporting.comparison import Comparison, Contender, Pair
    from finetune.reporting.run_record import RunRecord

_PHOTOS = 4
"""Photos that the terminal names of each kind; the page shows all."""


def compare(
    runs: Annotated[list[str], typer.Argument(help="Two runs or more, by name or folder.")],
    on: Annotated[
        Path | None,
        typer.Option(help="A labeled folder to compare on; default: the runs' own test photos."),
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="Which part to compare on; default: test, else validation.")
    ] = None,
    follow: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Photos to follow through all runs: a text file with a path per line, or paths "
            "separated by commas; default: the first run's mistakes.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write a page with photos to this HTML file."),
    ] = None,
    show: Open = False,
    device: Device = None,
    seed: Seed = 0,
    language: Language = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare runs on the same photos."""
    output.json, output.quiet = json, quiet
    check_language(language)
    if len(runs) < 2:
        raise ConfigError("finetune compare needs two runs or more. See your runs with: ls runs")
    if on is not None and part is not None:
        raise ConfigError("--on and --part exclude each other: a folder has no parts of a run.")
    if show and file is None:
        file = Path("comparison.html")
    from finetune.reporting.compare import compare as compare_runs
    from finetune.reporting.compare import contender
    from finetune.reporting.run_record import photos_root, read_run
    from finetune.runs.folder import find_run

    folders = [find_run(name) for name in runs]
    names = _distinct_names([folder.path for folder in folders])
    records = [read_run(folder.path) for folder in folders]
    left_out = ""
    if on is None:
        contenders = [contender(n, r, part) for n, r in zip(names, records, strict=True)]
    else:
        contenders, left_out = _evaluated_on(
            on, names, records, [folder.path for folder in folders], device
        )
    paths = _paths_in(follow)
    found = compare_runs(contenders, follow=paths, seed=seed)
    if left_out:
        output.warn(left_out)
    _print(found)
    output.document(found.to_dict() | ({"left_out": left_out} if on is not None else {}))
    if file is not None:
        from finetune.reporting.comparison_page import write_comparison

        with output.progress("Photos") as advance, in_language(language):
            written = write_comparison(
                file,
                # Its sentences are in the language of the page.
                found if language is None else compare_runs(contenders, follow=paths, seed=seed),
                contenders,
                photos_root=on or photos_root(folders[0].path),
                chosen=follow is not None,
                progress=advance,
            )
        output.info(f"Written: {written}")
        if show:
            open_page(written)


def _paths_in(follow: str | None) -> list[str] | None:
    """Returns the photos of ``--follow``."""
    if follow is None:
        return None
    file = Path(follow)
    try:
        lines = file.read_text("utf-8-sig").splitlines() if file.is_file() else follow.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--follow {follow} cannot be read: {error}") from error
    paths = [line.strip() for line in lines if line.strip()]
    if not paths:
        raise ConfigError(f"--follow {follow} names no photo. Write a path on each line.")
    return paths


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    """Returns the folders' names, or their paths where two have the same name."""
    names = [path.resolve().name for path in paths]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ConfigError("A run is named twice. Name each run once.")
    return [
        name if names.count(name) == 1 else str(path)
        for name, path in zip(names, paths, strict=True)
    ]


def _evaluated_on(
    on: Path,
    names: Sequence[str],
    records: Sequence[RunRecord],
    paths: Sequence[Path],
    device: str | None,
) -> tuple[list[Contender], str]:
    """Returns the predictions of each run for a folder, and a note about photos left out."""
    from finetune.photos.labels import merge_copies
    from finetune.reporting.comparison import Contender

    collection = read_collection(on)
    seen = {row.digest for record in records for row in record.split if row.part != "test"}
    if all(record.task.multi_label for record in records):
        merged, _ = merge_copies(collection.photos)
        collection = dataclasses.replace(collection, photos=tuple(merged))
        kept = [k for k, photo in enumerate(merged) if photo.labels or photo.confirmed]
        unusable = "without a label"
    else:
        kept = [k for k, photo in enumerate(collection.photos) if len(photo.labels) == 1]
        unusable = "with no label or several"
    fresh = [k for k in kept if collection.photos[k].digest not in seen]
    reasons = []
    if len(kept) < len(collection):
        reasons.append(f"{count(len(collection) - len(kept), 'photo')} {unusable}")
    if len(fresh) < len(kept):
        learned = count(len(kept) - len(fresh), "photo")
        reasons.append(f"{learned} that one of the runs was trained or validated on")
    left_out = f"Left out of {on}: {', '.join(reasons)}." if reasons else ""
    if not fresh:
        raise ConfigError(f"--on {on} has nothing to compare on. {left_out}".strip())
    contenders = [
        Contender(
            name=name,
            record=record,
            part="labeled",
            predictions=_predictions(collection, fresh, path, device, name),
        )
        for name, record, path in zip(names, records, paths, strict=True)
    ]
    return contenders, left_out


def _predictions(
    collection: Collection, places: Sequence[int], run: Path, device: str | None, name: str
) -> list[Prediction]:
    from finetune.evaluation.predictions import RANKED, Prediction
    from finetune.photos.labels import join_labels
    from finetune.prediction.predictor import Predictor
    from finetune.training.device import choose_device

    predictor = Predictor.load(run, device=str(choose_device(device)))
    photos = [collection.photos[k] for k in places]
    found = []
    with output.progress(name) as advance:
        files = [collection.path_of(photo) for photo in photos]
        for photo, prediction in zip(photos, predictor.predict_stream(files), strict=True):
            # A file that became unreadable after the scan is not compared.
            if prediction.ranked:
                ranked = [(item.label, item.probability) for item in prediction.ranked[:RANKED]]
                label_set = prediction.label_set
                found.append(
                    Prediction(
                        path=photo.path,
                        digest=photo.digest,
                        part="on",
                        label=photo.labels[0] if label_set is None else join_labels(photo.labels),
                        ranked=tuple(ranked),
                        label_set=label_set,
                    )
                )
            advance(len(found), len(photos))
    return found


def _print(found: Comparison) -> None:
    from finetune.reporting.run_record import setting_text

    for note in found.notes:
        output.warn(note)
    numbers = ("right", "95 % interval", "balanced", "ECE", "second")
    table = make_table("run", *numbers, right=numbers)
    sizes = ("parameters", "size", "training", "images/s", "memory")
    costs = make_table("run", *sizes, right=sizes)
    for row in found.rows:
        table.add_row(
            output.literal(row.name),
            percent(row.top1),
            interval(row.top1_interval),
            percent(row.balanced_accuracy),
            percent(row.ece),
            "–" if row.second is None else f"{row.second:,}",
        )
        costs.add_row(
            output.literal(row.name),
            f"{row.parameters / 1e6:.1f} M" if row.parameters is not None else "–",
            f"{row.size_bytes / 1e6:.1f} MB" if row.size_bytes is not None else "–",
            duration(row.training_seconds) if row.training_seconds is not None else "–",
            number(row.images_per_second, 0),
            f"{row.peak_memory_bytes / 1e9:.1f} GB" if row.peak_memory_bytes else "–",
        )
    output.print(table)
    output.text(f"On {found.photos:,} photos; second: the right answer was the second likeliest.\n")
    output.print(costs)
    for row in found.rows:
        if row.best:
            output.text(f"{row.name}: {row.best}")
    output.text("")
    if found.settings:
        differing = make_table("setting", *(row.name for row in found.rows))
        for name, values in found.settings:
            differing.add_row(
                output.literal(name), *(output.literal(setting_text(value)) for value in values)
            )
        output.print(differing)
        output.text("")
    for pair in found.pairs:
        _print_pair(pair)
    if found.followed:
        rights = ", ".join(
            f"{row.name} {sum(photo.correct[k] for photo in found.followed):,}"
            for k, row in enumerate(found.rows)
        )
        output.text(f"Of {count(len(found.followed), 'followed photo')} right: {rights}.")


def _print_pair(pair: Pair) -> None:
    output.text(
        f"{pair.verdict} {pair.reach} Both right: {pair.both:,}; only {pair.first}: "
        f"{len(pair.only_first):,}; only {pair.second}: {len(pair.only_second):,}; both wrong: "
        f"{pair.neither:,}."
    )
    table = make_table(
        "label", "photos", pair.first, pair.second, "change", "95 % interval",
        right=("photos", pair.first, pair.second, "change", "95 % interval"),
    )  # fmt: skip
    for row in pair.labels:
        low, high = row.interval
        table.add_row(
            output.literal(row.label),
            f"{row.photos:,}",
            percent(row.first),
            percent(row.second),
            signed(row.change * 100) if row.change else "0",
            f"{signed(low * 100)} to {signed(high * 100)}",
        )
    output.print(table)
    for winner, rows in ((pair.first, pair.only_first), (pair.second, pair.only_second)):
        for photo in rows[:_PHOTOS]:
            output.text(f"  only {winner}: {photo.path} ({photo.first} / {photo.second})")
        if len(rows) > _PHOTOS:
            output.text(f"  … and {len(rows) - _PHOTOS:,} more")
