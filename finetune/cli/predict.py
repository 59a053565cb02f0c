"""``finetune predict``: predicts the labels of photos; lists, sorts and explains them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune.cli.command import Device, FalseAlarms, SurePrecision, SureThreshold, one_of
from finetune.cli.console import Advance, Json, Quiet, Yes, output
from finetune.cli.predict_output import FEW, TOP, Extras, Printer, show_photo
from finetune.config import FALSE_ALARMS, PRECISION
from finetune.errors import ConfigError
from finetune.processes import Share, launched

if TYPE_CHECKING:
    from finetune.photos.file_mover import Transfer
    from finetune.prediction.predictions import PhotoPrediction
    from finetune.prediction.predictor import Predictor
    from finetune.prediction.run_graph import EngineName
    from finetune.prediction.sort_into import Sorter
    from finetune.prediction.table import PredictionTable

__all__ = ["predict", "show_photo"]


def predict(
    photos: Annotated[
        list[str] | None,
        typer.Argument(
            help="Photos, folders, patterns such as 'trip/**/*.jpg', or - for paths on stdin."
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            help="Run, .onnx file, or hf://OWNER/NAME; default: the newest run. Several are "
            "averaged.",
            show_default=False,
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", "--top-k", help="Number of labels to show; default: 5, or 1 a line.", min=1
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write one row per photo; resumes an interrupted file.")
    ] = None,
    precision: SurePrecision = PRECISION,
    false_alarms: FalseAlarms = FALSE_ALARMS,
    threshold: SureThreshold = None,
    level: Annotated[
        str | None,
        typer.Option(help="Level of the tree of labels to answer at, by name."),
    ] = None,
    only: Annotated[
        Path | None,
        typer.Option(help="File of possible labels, with months and places."),
    ] = None,
    by: Annotated[str, typer.Option(help="photo, or burst: one answer for its frames.")] = "photo",
    tta: Annotated[
        int,
        typer.Option(help="Views to average: 1, 2 (mirrored) or 10."),
    ] = 1,
    sort_into: Annotated[
        Path | None, typer.Option(help="Sort the photos into one folder per label.")
    ] = None,
    transfer: Annotated[str, typer.Option(help="How to sort: copy, link or move.")] = "copy",
    undo: Annotated[
        bool, typer.Option("--undo", help="With --sort-into: undo the sorting into this folder.")
    ] = False,
    explain: Annotated[
        Path | None, typer.Option(help="Write a heat map of each photo's first label here.")
    ] = None,
    similar: Annotated[int, typer.Option(help="Similar training photos to list.", min=0)] = 0,
    show: Annotated[bool, typer.Option("--show", help="Draw each photo in the terminal.")] = False,
    decode_margin: Annotated[
        float,
        typer.Option(
            help="Decode large JPEGs at 1 (faster) to 2 times the input.", show_default=False
        ),
    ] = 2.0,
    batch_size: Annotated[int, typer.Option(help="Photos per batch.", min=1)] = 32,
    device: Device = None,
    engine: Annotated[
        str | None, typer.Option(help="torch or onnx; default: onnx on a CPU.", show_default=False)
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    yes: Yes = False,
) -> None:
    """Predict the labels of photos, with probabilities.

    A photo that cannot be opened is listed with the reason, and the exit code is 1; the others are
    predicted as usual.
    """
    output.json, output.quiet = json, quiet
    if undo:
        if photos:
            raise ConfigError("--undo takes no photos; it undoes an earlier sorting.")
        if sort_into is None:
            raise ConfigError("--undo needs the sorted folder: --sort-into DIR --undo.")
        _undo(sort_into)
        return
    share = launched()
    if share.count > 1:
        _check_shared(
            csv,
            {
                "--sort-into": sort_into is not None,
                "--explain": explain is not None,
                "--similar": similar > 0,
                "--show": show,
                "--json": json,
                "--by burst": by == "burst",
            },
        )
        output.quiet = quiet or share.rank > 0
    if not photos:
        raise ConfigError("Which photos? Name some, or a folder: finetune predict photo.jpg")
    from finetune.photos.file_mover import Transfer

    how = one_of("--transfer", transfer, Transfer)
    from finetune.prediction.predictions import By

    by_burst = one_of("--by", by, By) == "burst"
    from finetune.prediction.inputs import check_tta, photos_of
    from finetune.prediction.predictor import PredictConfig, Predictor
    from finetune.prediction.restriction import read_restriction
    from finetune.prediction.run_graph import EngineName
    from finetune.runs.answers import claim_sentence

    config = PredictConfig(
        tta=check_tta(tta),
        precision=precision,
        false_alarms=false_alarms,
        threshold=threshold,
        level=level,
        only=None if only is None else read_restriction(only),
        decode_margin=decode_margin,
    )
    if level is not None and explain is not None:
        raise ConfigError("--explain shows why a label; leave out --level.")
    paths = photos_of(photos, stdin=sys.stdin, without=sort_into)
    first, paths = _peek(paths)
    if first is None:
        output.document([])
        output.info("No photos were named.")
        return
    chosen = None if engine is None else one_of("--engine", engine, EngineName)
    # Heat maps and features of training photos are torch's.
    used: EngineName | None = "torch" if explain is not None or similar else chosen
    if share.count > 1:
        _prepare_all(run, device, used)
    predictor = Predictor.load(run or None, device=device, config=config, engine=used)
    if by_burst and predictor.multi_label:
        raise ConfigError(f"--by burst is for runs of one label a photo, unlike {predictor.name}.")
    output.info(f"By {predictor.name}")
    if predictor.decision.measured:
        output.info(claim_sentence(predictor.claim, precision))
    if config.only is not None:
        output.info(config.only.describe(predictor.engines[0].metadata.labels))
    if sort_into is not None and how == "move" and not yes:
        typer.confirm(f"Move the photos to {sort_into}?", abort=True, err=True)
    with contextlib.ExitStack() as stack:
        table: PredictionTable | None = None
        if csv is not None:
            table = stack.enter_context(_table(csv, share, predictor, top or TOP, by_burst))
        sorter: Sorter | None = None
        if sort_into is not None:
            sorter = _sorter(sort_into, how, predictor, photos)
        extras = _extras(predictor, run, explain, similar, show, stack)
        if table is not None and table.rows:
            output.info(f"{csv} has {table.rows:,} of them already.")
        asked = list(paths)
        unit = predictor.photos_per_batch(batch_size)
        mine = [asked[row] for row in share.of([str(path) for path in asked], unit=unit)]
        remaining = mine if table is None else list(table.missing(mine))
        if table is not None and table.changed:
            output.info(f"{table.changed:,} of these changed since and are predicted again.")
        printer = Printer(top, len(remaining), predictor.labels, extras, quiet_rows=csv is not None)
        failed = 0
        with _progress(printer) as advance:
            batches: Iterable[Sequence[PhotoPrediction]]
            batches = predictor.predict_batches(remaining, batch_size=batch_size)
            if by_burst:
                batches = [list(_by_burst(predictor, remaining, chain.from_iterable(batches)))]
            number = 0
            for batch in batches:
                # A photo that was sorted and has no row, or the reverse, would be lost to a resume.
                for some in [batch] if sorter is None else [[one] for one in batch]:
                    if table is not None:
                        table.add_all(some)
                    for prediction in some:
                        if sorter is not None:
                            sorter.put(prediction)
                        printer.add(prediction)
                        failed += prediction.error is not None
                        number += 1
                        advance(number, len(remaining))
        printer.close()
    total = len(remaining)
    if csv is not None and is_shared(csv, share):
        from finetune.prediction.shared_table import merge_parts

        merged = merge_parts(csv, asked)
        if merged is None:
            output.info(f"The last process to end will merge all rows into {csv}.")
            return
        total, failed = merged.rows, merged.failed
    _sum_up(csv, sort_into, sorter, total, failed)
    if not by_burst and not output.quiet:
        _offer_bursts(remaining)
    if used is None:
        _prepare_next(predictor, device)
    if failed:
        raise typer.Exit(1)


def _prepare_next(predictor: Predictor, device: str | None) -> None:
    """Prepares the runs that were predicted by, so that the next predictions start at once."""
    from finetune.cli.fast_predictions import prepare_predictions

    for engine in predictor.engines:
        if engine.run is not None:
            prepare_predictions(engine.run, device=device)


def _peek(paths: Iterator[Path]) -> tuple[Path | None, Iterator[Path]]:
    """Returns the first path, and all of them, so that errors come before a run is loaded."""
    import itertools

    first = next(paths, None)
    return first, paths if first is None else itertools.chain([first], paths)


def _by_burst(
    predictor: Predictor, photos: Sequence[Path], predictions: Iterable[PhotoPrediction]
) -> Iterator[PhotoPrediction]:
    from finetune.prediction.bursts import answer_by_burst, find_bursts

    bursts = find_bursts(photos)
    found = answer_by_burst(list(predictions), bursts, predictor.decision)
    output.info(f"{len(photos):,} photos in {len(set(bursts)):,} bursts and single photos.")
    yield from found


def _offer_bursts(photos: Sequence[Path]) -> None:
    from finetune.prediction.bursts import has_many_bursts

    if has_many_bursts(photos):
        output.info("Many of these are frames of bursts; --by burst gives each burst one answer.")


def _check_shared(csv: Path | None, alone: Mapping[str, bool]) -> None:
    """Refuses what several processes cannot do."""
    if csv is None:
        raise ConfigError(
            "Several processes predict into one table: add --csv FILE, or leave out torchrun or "
            "accelerate launch."
        )
    for flag, given in alone.items():
        if given:
            raise ConfigError(
                f"{flag} works in one process only. Leave it out, or leave out torchrun or "
                "accelerate launch."
            )


def _prepare_all(runs: Sequence[str] | None, device: str | None, engine: EngineName | None) -> None:
    """Prepares the graphs of runs, so that all processes predict with the same engine."""
    from finetune.cli.fast_predictions import prepare_predictions
    from finetune.prediction.hub_address import is_hub_address
    from finetune.runs.folder import find_run

    named: Sequence[str | None] = runs or [None]
    for run in named:
        if run is None or not (is_hub_address(run) or run.lower().endswith(".onnx")):
            prepare_predictions(find_run(run), device=device, engine=engine)


def is_shared(csv: Path, share: Share) -> bool:
    """Returns whether a table is made of parts: several processes fill it, or have begun to."""
    from finetune.prediction.shared_table import has_parts

    return share.count > 1 or has_parts(csv)


def _table(
    path: Path, share: Share, predictor: Predictor, top: int, by_burst: bool
) -> AbstractContextManager[PredictionTable]:
    from finetune.prediction.shared_table import open_part
    from finetune.prediction.table import PredictionTable

    tree = predictor.decision.hierarchy

    def open_table(path: Path, others: Sequence[Path] = ()) -> PredictionTable:
        return PredictionTable(
            path,
            run=predictor.name,
            top=min(top, len(predictor.labels)),
            several=predictor.multi_label,
            taxonomy=tree.taxonomy if tree else None,
            by_burst=by_burst,
            others=others,
        )

    return open_part(path, share, open_table) if is_shared(path, share) else open_table(path)


def _sorter(folder: Path, how: Transfer, predictor: Predictor, sources: list[str]) -> Sorter:
    from finetune.prediction.sort_into import Sorter

    tree = predictor.decision.hierarchy
    nodes = [node for level in (tree.taxonomy.nodes[:-1] if tree else ()) for node in level]
    labels = list(dict.fromkeys([*predictor.labels, *nodes]))
    return Sorter(folder, how, labels=labels, sources=sources)


def _undo(folder: Path) -> None:
    from finetune.formatting import count
    from finetune.prediction.sort_into import undo_sorting

    undone = undo_sorting(folder)
    output.document(
        {
            "photos": len(undone.done),
            "kept": [[str(folder / move.target), why] for move, why in undone.problems],
        }
    )
    output.text(f"Undone for {count(len(undone.done), 'photo')}.")
    for move, why in undone.problems:
        output.warn(f"{folder / move.target} was left: {why}.")
    if undone.problems:
        raise typer.Exit(1)


def _extras(
    predictor: Predictor,
    runs: list[str] | None,
    overlays: Path | None,
    similar: int,
    show: bool,
    stack: contextlib.ExitStack,
) -> Extras:
    training = None
    if overlays is not None or similar:
        from finetune.prediction.explain import explainable

        engine = explainable(predictor)
        if similar:
            from finetune.prediction.hub_address import is_hub_address
            from finetune.prediction.similar_photos import TrainingPhotos
            from finetune.runs.folder import find_run

            number = predictor.engines.index(engine)
            if runs and is_hub_address(runs[number]):
                raise ConfigError(
                    f"--similar compares with training photos, which {runs[number]} has none of."
                )
            folder = find_run(runs[number] if runs else None)
            with output.progress("Features of the training photos") as advance:
                training = stack.enter_context(
                    TrainingPhotos(folder, engine, progress=lambda d, t: advance(d, t))
                )
    if show and not output.stdout.is_terminal:
        output.info("--show draws only in a terminal.")
        show = False
    return Extras(predictor, overlays, training, similar, show and not output.json)


@contextlib.contextmanager
def _progress(printer: Printer) -> Iterator[Advance]:
    if printer.on_terminal:
        yield lambda done, total: None
        return
    with output.progress("Predicting") as advance:
        yield advance


def _sum_up(
    csv: Path | None, folder: Path | None, sorter: Sorter | None, total: int, failed: int
) -> None:
    if csv is not None:
        output.info(f"{total:,} rows added to {csv}.")
    if sorter is not None:
        for label, number in sorted(sorter.counts.items()):
            into = sorter.folders.get(label, label)
            output.info(f"{number:>7,}  {label}{f', in {into}' if into != label else ''}")
        for photos, why in (
            (sorter.skipped, "sorted before; skipped"),
            (sorter.kept, "in a linked folder; not moved"),
        ):
            if photos:
                more = f" and {len(photos) - 3:,} more" if len(photos) > 3 else ""
                output.warn(f"{len(photos):,} {why}: {', '.join(photos[:3])}{more}.")
        output.info(
            f"Sorted into {folder}. Undo with: finetune predict --sort-into {folder} --undo"
        )
    if failed and total > FEW:
        output.info(f"{failed:,} of {total:,} photos could not be opened.")
